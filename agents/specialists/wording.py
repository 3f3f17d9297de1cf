"""A decision in words, rendered from templates and the pipeline's own facts: no figure in it is a model's."""

from __future__ import annotations

from agents.facts.spec import PipelineSpec
from agents.labels.label import UNKNOWN, Label, RuleFired
from agents.specialists.decision import Decision
from agents.specialists.specialist import Action, Fact, Specialist

_UNITS = {"_percent": " %", "_gb_per_day": " GB a day", "_gb": " GB", "_ms": " ms"}
_UPPER = {"cpu": "CPU", "slo": "SLO", "sla": "SLA", "oom": "OOM"}
_UNTOLD = ("description", "history_span")
"""Facts that are too long to stand in a sentence, or say nothing alone."""


def choice_in_words(specialist: Specialist, value: str) -> str:
    """``mode micro_batch: minutes matter``."""
    option = next(one for one in specialist.choice.options if one.value == value)
    return f"{specialist.choice.name} {value}: {option.means}"


def actions_in_words(
    specialist: Specialist, decision: Decision, spec: PipelineSpec, label: Label | None
) -> tuple[str, ...]:
    """One sentence an action, in order: ``Add memory: memory is at 82 %, above 72``."""
    return tuple(action_in_words(specialist, specialist.actions_by_id[one.id], spec, label) for one in decision.actions)


def action_in_words(specialist: Specialist, action: Action, spec: PipelineSpec, label: Label | None) -> str:
    """What to do, and what that rests on: the label's reasons about its facts, else the facts themselves."""
    calm = (specialist.label.levels[0], UNKNOWN) if specialist.label else ()
    grave = [rule for rule in label.rules if rule.level not in calm] if label else []
    about = [rule for rule in grave if set(rule.facts) & set(action.facts)]
    told = specialist.told(spec)
    because = [reason_in_words(rule) for rule in about] or [
        fact_in_words(name, told[name]) for name in action.facts if name in told and name not in _UNTOLD
    ]
    return f"{action.do}: {'; '.join(because)}" if because else action.do


def reason_in_words(rule: RuleFired) -> str:
    """A rule's reason with its facts' names in words: ``memory is at 82 %, above 72``."""
    reason = rule.reason
    for name in rule.facts:
        head, found, rest = reason.partition(f"{name} is ")
        if found and name.endswith("_percent"):
            value, comma, bound = rest.partition(",")
            reason = f"{head}{in_words(name)} is at {value} %{comma}{bound}"
        elif found:
            reason = f"{head}{in_words(name)} is {rest}"
    return reason


def fact_in_words(name: str, value: Fact) -> str:
    """``latency need is 5 min``; ``completeness is 87 %``; a yes-or-no fact as ``deletes matter: yes``."""
    if isinstance(value, bool):
        return f"{in_words(name)}: {'yes' if value else 'no'}"
    unit = next((unit for ending, unit in _UNITS.items() if name.endswith(ending)), "")
    shown = ", ".join(f"{one:g}" for one in value) if isinstance(value, list) else f"{value}"
    return f"{in_words(name)} is {shown}{unit}"


def in_words(name: str) -> str:
    """``query_latency_ms`` as ``query latency``."""
    for ending in _UNITS:
        name = name.removesuffix(ending)
    return " ".join(_UPPER.get(word, word) for word in name.split("_"))
