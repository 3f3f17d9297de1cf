"""Ways to break a setup that a gate has to notice: prompts, policies, guardrails, sampling.

Each mutation changes one thing of a suite that stands in a folder of its own, with the prompts and policies it names.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from agents import guardrails
from agents.asking.variant import PROMPTS_DIR
from agents.labels.policy import load_policy, with_settings

Document = dict[str, Any]
LABEL = "because {{ because }}."
CASES = 384
"""Eight rounds of the oracle table. The curated set's 98 cases are too few to show falls of a few points."""


@dataclass(frozen=True)
class Setup:
    """A suite in the making."""

    suite: Document
    prompts: dict[str, Document]
    """By name; written beside the suite."""

    def written(self, folder: Path) -> Path:
        """The suite's file, with what it names beside it."""
        for name, prompt in self.prompts.items():
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(prompt), "utf8")
        named = {"prompts": [str(folder / f"{name}.yaml") for name in self.prompts]}
        path = folder / "suite.yaml"
        path.write_text(yaml.safe_dump({**self.suite, **named}), "utf8")
        return path


def setup(*prompts: str, guardrails: str = "off") -> Setup:
    """The sound setup that mutations start from: packaged prompts, the default policy, generated cases."""
    loaded = {name: yaml.safe_load((PROMPTS_DIR / f"{name}.yaml").read_text("utf8")) for name in prompts}
    return Setup({"name": "gate proof", "guardrails": [guardrails], "cases": {"count": CASES, "seed": 4}}, loaded)


@dataclass(frozen=True)
class Mutation:
    """One way to break a setup."""

    name: str
    base: tuple[str, ...]
    """Prompts of the sound setup."""
    change: Callable[[Setup, Path], None]
    """Changes the setup in place; the folder is where files of its own may go."""
    guardrails: str = "off"
    """Of the sound setup."""
    patched: Callable[[], AbstractContextManager[object]] = nullcontext
    """Holds while the broken setup runs: for what stands in code."""

    def sound(self) -> Setup:
        """What it breaks."""
        return setup(*self.base, guardrails=self.guardrails)


def _users(made: Setup, prompt: str, change: Callable[[str], str], *stages: str) -> None:
    """Change the user text of some stages; one that stays the same would be no mutation."""
    for stage in stages:
        part = made.prompts[prompt]["stages"][stage]
        before, part["user"] = part["user"], change(part["user"])
        if part["user"] == before:
            raise ValueError(f"{prompt}, {stage}: the mutation changes nothing")


def _label_dropped(made: Setup, _: Path) -> None:
    def without(text: str) -> str:
        return "\n".join(
            line.replace("The severity is {{ label.value }}, because {{ because }}.", "").replace(
                "The priority is {{ label.value }}, because {{ because }}.", ""
            )
            for line in text.splitlines()
        )

    _users(made, "grounded", without, "quality", "infrastructure")


def _advice_dropped(made: Setup, _: Path) -> None:
    _users(made, "grounded", lambda text: text[: text.index(LABEL) + len(LABEL)], "quality", "infrastructure")


def _wrong_unit(made: Setup, _: Path) -> None:
    days = """{{ facts | replace(' s"', ' day"') | replace(' min"', ' day"') }}"""
    _users(made, "grounded", lambda text: text.replace("{{ facts }}", days), "ingestion")


def _percent_as_share(made: Setup, _: Path) -> None:
    shares = """{{ facts | replace('_percent": 9', '_percent": 0.9') | replace('_percent": 8', '_percent": 0.8') }}"""
    _users(made, "grounded", lambda text: text.replace("{{ facts }}", shares), "quality", "infrastructure")


def _modes_swapped(made: Setup, _: Path) -> None:
    def swapped(text: str) -> str:
        return (
            text.replace("- batch:", "- held:").replace("- streaming:", "- batch:").replace("- held:", "- streaming:")
        )

    _users(made, "grounded", swapped, "ingestion")


def _facts_left_out(made: Setup, _: Path) -> None:
    _users(made, "grounded", lambda text: text.replace("{{ facts }}", ""), "ingestion", "quality", "infrastructure")


def _stages_mixed_up(made: Setup, _: Path) -> None:
    stages = made.prompts["grounded"]["stages"]
    stages["quality"]["user"] = stages["infrastructure"]["user"]


def _examples_swapped(made: Setup, _: Path) -> None:
    for part in made.prompts["few_shot"]["stages"].values():
        first, second = part["examples"]
        first["answer"], second["answer"] = second["answer"], first["answer"]


def _policy(*settings: str) -> Callable[[Setup, Path], None]:
    def change(made: Setup, folder: Path) -> None:
        changed = with_settings(load_policy("standard"), settings)
        path = folder / "policy.yaml"
        path.write_text(yaml.safe_dump(changed.model_dump(mode="json") | {"name": "standard"}), "utf8")
        made.suite["policies"] = [str(path)]

    return change


def _suite(**changes: object) -> Callable[[Setup, Path], None]:
    return lambda made, _: made.suite.update(changes)


def _sampling(**changes: object) -> Callable[[Setup, Path], None]:
    return _suite(sampling=[{"name": "as prompt", **changes}])


def _rules_off() -> AbstractContextManager[object]:
    return patch.dict(guardrails.RULES, clear=True)


GROUNDED = ("grounded",)
MUTATIONS = (
    Mutation("prompt: the label is dropped", GROUNDED, _label_dropped),
    Mutation("prompt: what the label asks for is dropped", GROUNDED, _advice_dropped),
    Mutation("prompt: seconds and minutes are told as days", GROUNDED, _wrong_unit),
    Mutation("prompt: percents are told as shares", GROUNDED, _percent_as_share),
    Mutation("prompt: batch and streaming have each other's definition", GROUNDED, _modes_swapped),
    Mutation("prompt: the facts are left out", GROUNDED, _facts_left_out),
    Mutation("prompt: the quality stage asks the infrastructure's question", GROUNDED, _stages_mixed_up),
    Mutation("prompt: worked examples have each other's answer", ("few_shot",), _examples_swapped),
    Mutation(
        "policy: CPU and memory are HIGH only above 84",
        GROUNDED,
        _policy("priority.cpu.high=82", "priority.memory.high=82", "priority.mean=null"),
    ),
    Mutation("policy: the disk is not looked at", GROUNDED, _policy("priority.disk=null")),
    Mutation("policy: the tutorial's rules", GROUNDED, _suite(policies=["seed"])),
    Mutation("guardrails: switched off", GROUNDED, _suite(guardrails=["off"]), "enforce"),
    Mutation("guardrails: on, and no rule is left", GROUNDED, _suite(), "enforce", _rules_off),
    Mutation("sampling: temperature 1.5", GROUNDED, _sampling(temperature=1.5)),
    Mutation("sampling: answers are cut off at 30 tokens", GROUNDED, _sampling(max_tokens=30)),
    Mutation("sampling: no schema holds the answer", GROUNDED, _sampling(constrained=False)),
)
