"""A stand-in for a small model's behaviour, for proving the gate: rules that do what their prompt says, no model.

A changed prompt changes its answers the way it would a small model's: it knows a mode only by its definition or by
an example, repeats what the prompt asks for after the label, guesses a label it is not told, takes figures from the
facts as they stand, loses its thread as the temperature rises, and chats around its JSON where no schema holds it.
It is served by the simulator (`serving.simulator.listen(..., answerer=...)`) and says nothing about any model.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from math import log
from typing import Any

from serving.simulator_request import ChatRequest

_FENCE = re.compile(r"<facts>\n(.*?)\n</facts>", re.DOTALL)
_LABEL = re.compile(r"\bThe (severity|priority) is ([A-Z]+)\b")
_DEFINITION = re.compile(r"^\s*- (\w+): (.+)$", re.MULTILINE)
_MINUTES = {"ms": 1 / 60_000, "s": 1 / 60, "min": 1.0, "h": 60.0, "day": 1440.0, "days": 1440.0, "week": 10_080.0}

_LOST = (
    "Scale everything up urgently by 300 percent and buy new hardware.",
    "Move it all to Kafka and let a nightly full dump run every minute.",
    "No action is needed since everything is fine.",
    "Impute whatever is missing with 42 and publish at once.",
)
"""What it says when it has lost its thread."""


@dataclass(frozen=True)
class StandIn:
    """Answers chat completions; give it to the simulator.

    slips: share of cases it gets wrong by itself, always the same ones. seed: of its slips.
    """

    slips: float = 0.1
    seed: int = 0

    def __call__(self, asked: ChatRequest) -> str:
        """The answer to one request: the same for the same facts, prompt, temperature and seed."""
        texts = [(str(one.get("role")), str(one.get("content"))) for one in asked.messages]
        question = texts[-1][1]
        facts = _facts(question)
        answer = _advice(texts, question, facts)
        if self._is_lost(asked, facts):
            answer = _lost(answer, facts)
        return _written(answer, asked.answer_schema)

    def _is_lost(self, asked: ChatRequest, facts: dict[str, Any]) -> bool:
        by_itself = _drawn(f"{self.seed}/{_digest(facts)}").random() < self.slips
        heat = asked.temperature or 0.0
        by_heat = _drawn(f"{asked.seed}/{heat}/{_digest(facts)}").random() < 0.3 * heat**2
        return by_itself or by_heat


def _facts(question: str) -> dict[str, Any]:
    """What stands in the fence; nothing where there is none or it is broken."""
    fence = _FENCE.search(question)
    try:
        found = json.loads(fence[1]) if fence else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _digest(facts: dict[str, Any]) -> str:
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _drawn(key: str) -> random.Random:
    return random.Random(key)  # noqa: S311 - reproducible, not secret


def _advice(texts: list[tuple[str, str]], question: str, facts: dict[str, Any]) -> dict[str, Any]:
    label = _LABEL.search(question)
    if "severity" in question or "quality" in question:
        return _labelled("severity", label[2] if label else _guess(facts), texts, facts)
    if "priority" in question or "infrastructure" in question or "machines" in question:
        return _labelled("priority", label[2] if label else "NORMAL", texts, facts)
    return _ingestion(texts, question, facts)


def _labelled(kind: str, level: str, texts: list[tuple[str, str]], facts: dict[str, Any]) -> dict[str, Any]:
    """Says the label and a figure behind it back, and then what the prompt's end or an example asks for."""
    question = texts[-1][1]
    figures = [name for name, value in facts.items() if isinstance(value, int | float)]
    reasons = _LABEL.split(question)[-1]
    name = next((one for one in figures if one in reasons), next(iter(figures), "nothing"))
    advice = _hints(question) or _from_an_example(texts, level)
    return {
        "summary": f"The {kind} is {level}: {name.replace('_', ' ')} is {facts.get(name, 'known')}."[:160],
        "actions": [*advice, "Look into it.", "Talk to the team."][:2],
    }


def _hints(question: str) -> list[str]:
    """The sentences after the label's reasons: what to do, in the prompt's own words."""
    told = _LABEL.search(question)
    if not told:
        return []
    tail = question[told.start() :]
    after = re.split(r"(?<=[a-z0-9%)])\. (?=[A-Z])", tail.replace("\n", " "))[1:]
    return [re.sub(r"\s+", " ", one).strip(" .")[:99] + "." for one in after]


def _from_an_example(texts: list[tuple[str, str]], level: str) -> list[str]:
    """The actions of the first worked example with that label."""
    alike = (answer for (role, asked), (_, answer) in pairwise(texts) if role == "user" and f" is {level}" in asked)
    return [str(one) for one in json.loads(next(alike, "{}")).get("actions", [])]


def _guess(facts: dict[str, Any]) -> str:
    """The tutorial's mistake: a mean hides a bad dimension."""
    known = [value for name, value in facts.items() if name.endswith("_percent") and isinstance(value, int | float)]
    mean = sum(known) / len(known) if known else 100.0
    return "LOW" if mean >= 70 else "MEDIUM"


def _ingestion(texts: list[tuple[str, str]], question: str, facts: dict[str, Any]) -> dict[str, Any]:
    wanted = _wanted(facts)
    definitions = dict(_DEFINITION.findall(question))
    mode = next((mode for mode, words in definitions.items() if wanted in words), None) or _like_an_example(
        texts, facts
    )
    kind = facts.get("type", "the source")
    return {
        "summary": f"Bring {kind} in by {(mode or 'batch').replace('_', ' ')}, since {wanted}."[:160],
        "actions": [
            "Resume from a cursor or offset and retry with backoff within the rate limit.",
            "Remove duplicates by key, so that a rerun is idempotent, and keep a dead letter queue.",
        ],
        "mode": mode or "batch",
    }


def _wanted(facts: dict[str, Any]) -> str:
    """Words of the definition that fits the facts."""
    words = json.dumps(facts).lower()
    if "webhook" in words and "no webhook" not in words:
        return "the source calls us"
    minutes = _minutes(facts.get("latency_need"))
    if facts.get("log_access") is True and (facts.get("deletes_matter") is True or minutes < 1):
        return "whose log may be read"
    if minutes < 1 or "second" in words or "stream" in words:
        return "the source sends events"
    return "minutes matter" if minutes <= 60 or "minute" in words else "hourly or daily"


def _minutes(told: object) -> float:
    """A duration in minutes, never nothing; what is not told is a day."""
    found = re.fullmatch(r"([\d.]+) (\w+)", str(told))
    return max(float(found[1]) * _MINUTES.get(found[2], 1440.0), _MINUTES["ms"]) if found else 1440.0


def _like_an_example(texts: list[tuple[str, str]], facts: dict[str, Any]) -> str | None:
    """The mode of the worked example whose latency is nearest: so many times as long or as short."""
    pairs = [
        (_minutes(_facts(asked).get("latency_need")), answer)
        for (role, asked), (_, answer) in pairwise(texts)
        if role == "user"
    ]
    wanted = _minutes(facts.get("latency_need"))
    nearest = min(pairs, key=lambda one: abs(log(one[0] / wanted)), default=(1.0, "{}"))[1]
    mode = json.loads(nearest).get("mode")
    return str(mode) if mode else None


def _lost(answer: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    drawn = _drawn(_digest(facts))
    changed = {**answer, "actions": drawn.sample(_LOST, 2)}
    return changed | {"mode": drawn.choice(("streaming", "cdc", "batch"))} if "mode" in answer else changed


def _written(answer: dict[str, Any], schema: dict[str, Any] | None) -> str:
    if schema is None:
        return f"Sure, here is my advice:\n```json\n{json.dumps(answer)}\n```\nLet me know if I can help further!"
    return json.dumps({name: _field(answer, name, part) for name, part in schema["properties"].items()})


def _field(answer: dict[str, Any], name: str, part: dict[str, Any]) -> Any:
    """A field within its bounds; reasoning, where it is asked for, is the summary again."""
    value = answer.get(name, answer["summary"])
    if isinstance(value, list):
        return [one[: part["items"].get("maxLength", 1000)] for one in value]
    return value[: part.get("maxLength", 1000)]
