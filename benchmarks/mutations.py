"""Ways to break a setup that a gate has to notice: prompts, policies, sampling.

Each mutation changes one thing of a suite that stands in a folder of its own, with the prompts and policies it names.
The sound setup offers everything: where only what is permitted is offered, the form itself makes good for much of what
a broken prompt loses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from agents.labels.policy import load_policy, with_settings
from agents.specialists.registry import specialists

Document = dict[str, Any]
CASES = 384
"""Eight rounds of the oracle table. The curated set's 98 cases are too few to show falls of a few points."""

_FACTS = "{{ facts }}"
_LABEL = "{% if label %}The {{ label.kind }} is {{ label.value }}, because {{ because }}.{% endif %}"
_UNKNOWN = "{% if label %}The {{ label.kind }} is UNKNOWN.{% endif %}"
_DAYS = """{{ facts | replace(' s"', ' day"') | replace(' min"', ' day"') }}"""
_SHARES = """{{ facts | replace('_percent": 9', '_percent": 0.9') | replace('_percent": 8', '_percent": 0.8') }}"""


@dataclass(frozen=True)
class Setup:
    """A suite in the making."""

    suite: Document
    prompt: Document
    """Written beside the suite."""

    def written(self, folder: Path) -> Path:
        """The suite's file, with its prompt beside it."""
        (folder / "prompt.yaml").write_text(yaml.safe_dump(self.prompt), "utf8")
        path = folder / "suite.yaml"
        path.write_text(yaml.safe_dump({**self.suite, "prompts": ["prompt.yaml"]}), "utf8")
        return path


def setup() -> Setup:
    """The sound setup that mutations start from: everything is offered, the default policy, generated cases."""
    prompt = {"name": "sound", "version": 1, "description": "All is told.", "ask": "write", "offer": "all"}
    return Setup({"name": "gate proof", "cases": {"count": CASES, "seed": 4}}, prompt | _asking(f"{_FACTS}\n{_LABEL}"))


def _asking(words: str) -> Document:
    return {"stages": {one.name: {"ask": words} for one in specialists()}}


@dataclass(frozen=True)
class Mutation:
    """One way to break a setup."""

    name: str
    change: Callable[[Setup, Path], None]
    """Changes the setup in place; the folder is where files of its own may go."""


def _prompt(words: str) -> Callable[[Setup, Path], None]:
    return lambda made, _: made.prompt.update(_asking(words))


def _suite(**changes: object) -> Callable[[Setup, Path], None]:
    return lambda made, _: made.suite.update(changes)


def _sampling(**changes: object) -> Callable[[Setup, Path], None]:
    return _suite(sampling=[{"name": "as prompt", **changes}])


def _policy(*settings: str) -> Callable[[Setup, Path], None]:
    def change(made: Setup, folder: Path) -> None:
        changed = with_settings(load_policy("standard"), settings)
        path = folder / "policy.yaml"
        path.write_text(yaml.safe_dump(changed.model_dump(mode="json") | {"name": "standard"}), "utf8")
        made.suite["policies"] = [str(path)]

    return change


MUTATIONS = (
    Mutation("prompt: the label is dropped", _prompt(_FACTS)),
    Mutation("prompt: every label is told as UNKNOWN", _prompt(f"{_FACTS}\n{_UNKNOWN}")),
    Mutation("prompt: the facts are left out", _prompt(f"What is right here? {_LABEL}")),
    Mutation("prompt: seconds and minutes are told as days", _prompt(f"{_DAYS}\n{_LABEL}")),
    Mutation("prompt: percents are told as shares", _prompt(f"{_SHARES}\n{_LABEL}")),
    Mutation(
        "policy: CPU and memory are HIGH only above 84",
        _policy("priority.cpu.high=82", "priority.memory.high=82", "priority.mean=null"),
    ),
    Mutation("policy: the disk is not looked at", _policy("priority.disk=null")),
    Mutation("policy: the tutorial's rules", _suite(policies=["seed"])),
    Mutation("sampling: temperature 1.5", _sampling(temperature=1.5)),
    Mutation("sampling: answers are cut off at 8 tokens", _sampling(max_tokens=8)),
    Mutation("sampling: no schema holds the answer", _sampling(constrained=False)),
)
