"""Metamorphic relations: what may be changed about a pipeline without changing what is right, and what may not.

Where no one knows the right answer, two answers can still be held against each other: another company's name must
leave the decision as it is, and a worse metric must not make it milder. A relation is a pure function of a case; None
where it has nothing to change.

What a model never sees cannot sway it. A prompt holds neither the pipeline's id nor the order of a file's keys, and
amounts in one spelling (agents/facts/units.py): there both prompts are the same, which is a guarantee of ours and no
merit of the model's. Such pairs show how far the endpoint repeats itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any
from zlib import crc32

from pydantic import Field, ValidationError

from agents.facts.spec import PipelineSpec
from agents.facts.units import seconds
from agents.labels.label import Label
from agents.labels.policy import DEFAULT_POLICY, Policy, load_policy
from agents.specialists.registry import labels_for, specialist_of
from agents.specialists.rules import Permitted, permitted
from common.located import load_yaml_model
from common.strict import Strict
from evals.case import Case

WORDS_PATH = Path(__file__).parent / "relations.yaml"

_Words = Annotated[tuple[str, ...], Field(min_length=1, strict=False)]


class Words(Strict):
    """The words of relations.yaml."""

    companies: _Words
    pipelines: _Words
    regions: _Words
    teams: _Words
    irrelevant: _Words
    frequencies: dict[str, str]
    paraphrases: dict[str, str]
    times: dict[str, str]
    brands: dict[str, str]
    bound_to_a_brand: _Words


@cache
def words() -> Words:
    """relations.yaml, read once."""
    return load_yaml_model(WORDS_PATH, Words)


@dataclass(frozen=True)
class Relation:
    """One way to change a pipeline, and what the answer then has to do."""

    meaning: str
    """What is changed and what is asked of the answer, in one sentence."""
    change: Callable[[Case], PipelineSpec | None]
    """The changed pipeline; None where there is nothing to change."""
    worsens: bool = False
    """The pipeline gets worse: the decision may change, but not get milder. Else it has to stay."""

    def __call__(self, case: Case) -> PipelineSpec | None:
        """The changed pipeline, if the rules still read it as they have to; None where the relation does not apply."""
        try:
            changed = self.change(case)
        except ValidationError:  # a description that has no room for another sentence
            return None
        return changed if changed and self._keeps_the_truth(case, changed) else None

    def _keeps_the_truth(self, case: Case, changed: PipelineSpec) -> bool:
        if self.worsens:
            return not is_milder(case.stage, *(_standard_label(case.stage, spec) for spec in (case.spec, changed)))
        return _rules_say(case.stage, case.spec) == _rules_say(case.stage, changed)


def is_milder(stage: str, before: Label | None, after: Label | None) -> bool:
    """Whether a label is below another one of its stage; UNKNOWN counts as the worst level that is known."""
    rule = specialist_of(stage).label
    if rule is None or before is None or after is None:
        return False
    return rule.rank(after) < rule.rank(before)


def _standard_label(stage: str, spec: PipelineSpec) -> Label | None:
    return labels_for(spec, _standard())[stage]


@cache
def _standard() -> Policy:
    return load_policy(DEFAULT_POLICY)


def _rules_say(stage: str, spec: PipelineSpec) -> tuple[str | None, Permitted]:
    """The label's level and what is permitted: a change that leaves both leaves what is right."""
    label = _standard_label(stage, spec)
    return label.value if label else None, permitted(specialist_of(stage), spec, label)


# --- what every relation needs ---------------------------------------------------------------------------


def _pick(case: Case, options: Sequence[Any]) -> Any:
    """One of the options, by the case's id: the same case always gets the same one."""
    return options[crc32(case.id.encode()) % len(options)]


_PART = {"ingestion": "source", "quality": "quality_metrics", "infrastructure": "infrastructure_metrics"}
"""Which part of a pipeline a stage's figures are in; those of further specialists are left as they are."""


def _rebuilt(spec: PipelineSpec, part: str, changes: Mapping[str, Any]) -> PipelineSpec:
    """The pipeline with some fields of one part changed, checked as a file is. Raises ValidationError."""
    document = spec.model_dump()
    document[part] |= changes
    return PipelineSpec.model_validate(document)


def _with_sentence(case: Case, sentence: str) -> PipelineSpec:
    told = case.spec.source.description
    return _rebuilt(case.spec, "source", {"description": f"{told.rstrip()} {sentence}" if told else sentence})


def _whole_words(phrases: Sequence[str]) -> re.Pattern[str]:
    alternatives = "|".join(re.escape(phrase) for phrase in sorted(phrases, key=len, reverse=True))
    return re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)", re.IGNORECASE)


def _replaced(text: str, table: Mapping[str, str]) -> str:
    """A text with each phrase exchanged once, in one pass, a capital at the beginning kept."""
    small = {old.lower(): new for old, new in table.items()}

    def other(match: re.Match[str]) -> str:
        new = small[match.group().lower()]
        return new[0].upper() + new[1:] if match.group()[0].isupper() else new

    return _whole_words(list(table)).sub(other, text)


def _in_words(case: Case, change: Callable[[str], str], *fields: str) -> PipelineSpec | None:
    """The pipeline with those of its source's texts changed that the stage is told; None when none of them changes."""
    told = specialist_of(case.stage).told(case.spec)
    texts = {name: getattr(case.spec.source, name) for name in fields if name in told}
    changed = {name: change(text) for name, text in texts.items() if text and change(text) != text}
    return _rebuilt(case.spec, "source", changed) if changed else None


# --- the name, the form, the words -----------------------------------------------------------------------


def _rename(case: Case) -> PipelineSpec:
    """Another id, and a sentence with the pipeline's and a company's name: the id alone is in no prompt."""
    name, company = _pick(case, words().pipelines), _pick(case, words().companies)
    told = _with_sentence(case, f"The pipeline is called {name} and belongs to {company}.")
    return told.model_copy(update={"id": name})


def _reorder_keys(case: Case) -> PipelineSpec:
    return PipelineSpec.model_validate(_backwards(case.spec.model_dump()))


def _backwards(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _backwards(one) for key, one in reversed(value.items())}
    return value


_TIME_IN_WORDS = re.compile(r"(?<![\w.,])(\d+(?:\.\d+)?) (s|min|h|day|second|minute|hour)s?\b", re.IGNORECASE)
_SMALLER = {"m": (60, "seconds"), "h": (60, "minutes"), "d": (24, "hours")}
_DURATIONS = {
    "ms": (Decimal("0.001"), "s"),
    "s": (Decimal(1000), "ms"),
    "min": (Decimal(60), "s"),
    "h": (Decimal(60), "min"),
    "day": (Decimal(24), "h"),
}


def _change_units(case: Case) -> PipelineSpec | None:
    """The same amounts in other units, in the fields that have one."""
    source, quality = case.spec.source, case.spec.quality_metrics
    told: dict[str, str | None] = {}
    if case.stage == "ingestion":
        told = {"volume": _per_week(source.volume), "latency_need": _smaller_time(source.latency_need)}
    elif case.stage == "quality":
        told = {name: _smaller_time(getattr(quality, name)) for name in ("freshness", "freshness_sla")}
    changes = {name: value for name, value in told.items() if value is not None}
    return _rebuilt(case.spec, _PART[case.stage], changes) if changes else None


def _change_units_in_words(case: Case) -> PipelineSpec | None:
    return _in_words(case, _other_times, "frequency", "description")


def _other_times(text: str) -> str:
    """Times in the next smaller unit; seconds in minutes, where that is a plain fraction."""

    def other(match: re.Match[str]) -> str:
        amount, unit = Decimal(match[1]), match[2][0].lower()
        if unit == "s":
            return f"{amount / 60:f} minutes" if amount >= 15 and amount % 3 == 0 else match.group()
        factor, smaller = _SMALLER[unit]
        return f"{amount * factor:f} {smaller}"

    # The table second: what it brings must not be taken for another time to be changed.
    return _replaced(_TIME_IN_WORDS.sub(other, text), words().times)


def _smaller_time(duration: str | None) -> str | None:
    """A canonical duration in the next smaller unit: `15 min` as `900 s`."""
    if duration is None:
        return None
    amount, unit = duration.split()
    factor, smaller = _DURATIONS[unit]
    return f"{Decimal(amount) * factor:f} {smaller}"


def _per_week(volume: str | None) -> str | None:
    """A rate per week that was per day; what is told per another period stays, for there no whole number is sure."""
    amount, per_day, _ = volume.partition("/day") if volume else ("", "", "")
    if not per_day:
        return None
    number = re.match(r"[\d.]+", amount)
    return f"{Decimal(number.group()) * 7:f}{amount[number.end() :]}/week" if number else None


def _paraphrase(case: Case) -> PipelineSpec | None:
    often = _in_words(case, partial(_replaced, table=words().frequencies), "frequency")
    kept = case.model_copy(update={"spec": often}) if often else case
    return _in_words(kept, partial(_replaced, table=words().paraphrases), "description") or often


_SENTENCE = re.compile(r"[^.!?;]+[.!?;]")
_LEANS_ON_THE_ONE_BEFORE = re.compile(
    r"\b(?:it|its|they|them|their|this|these|those|he|she|other|others|same|former|latter|such)\b"
    r"|^\s*(?:that|but|so|and|or|also|then|there|therefore|however|only|both|neither|otherwise|instead)\b",
    re.IGNORECASE,
)


def _reorder_sentences(case: Case) -> PipelineSpec | None:
    return _in_words(case, _sentences_backwards, "description")


def _sentences_backwards(text: str) -> str:
    """The sentences last to first; as it was where one leans on the one before it, or they do not add up."""
    sentences = _SENTENCE.findall(text)
    leaning = any(_LEANS_ON_THE_ONE_BEFORE.search(one) for one in sentences[1:])
    if len(sentences) < 2 or leaning or "".join(sentences) != text.strip():
        return text
    plain = [one.strip().rstrip(".!?;") for one in sentences]
    return " ".join(f"{one[0].upper()}{one[1:]}." for one in reversed(plain))


# --- what is true and beside the point -------------------------------------------------------------------


def _add_irrelevant(case: Case) -> PipelineSpec | None:
    """A field that says what holds anyway (columns are not critical, nothing waits or was killed), else a sentence."""
    calm = _CALM_FIELDS.get(case.stage)
    if calm is None:
        return _with_sentence(case, _pick(case, words().irrelevant))
    metrics = getattr(case.spec, _PART[case.stage])
    absent = next((name for name in calm if getattr(metrics, name) is None), None)
    return _rebuilt(case.spec, _PART[case.stage], {absent: calm[absent]}) if absent else None


_CALM_FIELDS: dict[str, dict[str, str | float]] = {
    "quality": {"column_criticality": "normal", "validity_percent": 100.0},
    "infrastructure": {"consumer_lag": 0, "oom_kills": 0},
}


def _change_region_or_team(case: Case) -> PipelineSpec:
    told = case.spec.source.description or ""
    regions = [one for one in words().regions if one not in told]
    teams = [one for one in words().teams if one not in told]
    return _with_sentence(case, f"It runs in {_pick(case, regions)}, and the {_pick(case, teams)} team looks after it.")


def _change_source_brand(case: Case) -> PipelineSpec | None:
    """Another product of the same kind, wherever it is named; not where the text speaks of what only one has."""
    table = words().brands
    source = case.spec.source
    if _whole_words(words().bound_to_a_brand).search(f"{source.type}\n{source.description or ''}"):
        return None
    named = {match.lower() for match in _whole_words(list(table)).findall(source.type)}
    if len(named) != 1:
        return None
    return _in_words(case, partial(_replaced, table=table), "type", "frequency", "description")


# --- figures ---------------------------------------------------------------------------------------------

_AMOUNT_PER_TIME = re.compile(r"\d\s*[A-Za-z]*\s*(?:/|\bper\b|\ba\b|\bevery\b|\beach\b)")
_FIGURE = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
_FACTORS = (Decimal(2), Decimal("0.5"), Decimal("1.25"), Decimal("0.8"))


def _scale_volume(case: Case) -> PipelineSpec | None:
    """Twice as much data, or else half, within the same band; for machines, storage and its growth twice as large."""
    if case.stage == "infrastructure":
        return _twice_the_storage(case)
    if case.stage != "ingestion":
        return None
    source = case.spec.source
    told = f"{source.description or ''} {source.frequency or ''}"
    if source.volume is None or _AMOUNT_PER_TIME.search(told) or _figures(told) & _figures(source.volume):
        return None  # the words name the amount too, and would contradict another one
    scaled = (_rebuilt(case.spec, "source", {"volume": _times(source.volume, factor)}) for factor in _FACTORS)
    return next((one for one in scaled if _rules_say(case.stage, one) == _rules_say(case.stage, case.spec)), None)


def _figures(text: str) -> set[Decimal]:
    return {Decimal(figure.replace(",", "")) for figure in _FIGURE.findall(text)}


def _times(volume: str, factor: Decimal) -> str:
    number = re.match(r"[\d.]+", volume)
    if number is None:
        raise ValueError(f"found {volume!r}, which no pipeline file gives")
    return f"{Decimal(number.group()) * factor:f}{volume[number.end() :]}"


def _twice_the_storage(case: Case) -> PipelineSpec | None:
    metrics = case.spec.infrastructure_metrics
    if metrics.storage_used_gb is None or metrics.storage_total_gb is None:
        return None
    storage = ("storage_used_gb", "storage_total_gb", "storage_growth_gb_per_day")
    changes: dict[str, Any] = {name: 2 * value for name in storage if (value := getattr(metrics, name)) is not None}
    history = [
        reading.model_dump()
        | ({} if reading.storage_used_gb is None else {"storage_used_gb": 2 * reading.storage_used_gb})
        for reading in metrics.history
    ]
    return _rebuilt(case.spec, "infrastructure_metrics", {**changes, "history": history})


def _nudge(case: Case) -> PipelineSpec | None:
    """One percentage moved by 0.3 points where that leaves the label: 87 or 87.3 is the same news."""
    if case.stage not in _NUDGED:
        return None
    part = _PART[case.stage]
    metrics = getattr(case.spec, part)
    known = [name for name in _NUDGED[case.stage] if getattr(metrics, name) is not None]
    if not known:
        return None
    name = _pick(case, known)
    before = _standard_label(case.stage, case.spec)
    for step in (0.3, -0.3):
        value = round(getattr(metrics, name) + step, 6)
        if 0 <= value <= 100:
            changed = _rebuilt(case.spec, part, {name: value})
            if _rules(_standard_label(case.stage, changed)) == _rules(before):
                return changed
    return None


_NUDGED = {
    "quality": ("completeness_percent", "consistency_percent"),
    "infrastructure": ("cpu_percent", "memory_percent"),
}


def _rules(label: Label | None) -> tuple[object, ...]:
    return (label.value, *((rule.rule, rule.level) for rule in label.rules)) if label else ()


# --- worse -----------------------------------------------------------------------------------------------


def _worsen(case: Case) -> PipelineSpec | None:
    """One metric strictly worse, by so much that nobody would call it the same."""
    options = {"quality": _worse_quality, "infrastructure": _worse_machines}.get(case.stage)
    changes = options(case.spec) if options else []
    if not changes:
        return None
    return _rebuilt(case.spec, _PART[case.stage], _pick(case, changes))


def _worse_quality(spec: PipelineSpec) -> list[dict[str, Any]]:
    metrics = spec.quality_metrics
    drops = {"completeness_percent": 20, "consistency_percent": 20, "validity_percent": 20, "uniqueness_percent": 5}
    lower = [
        {name: round(max(0.0, value - drop), 6)}
        for name, drop in drops.items()
        if (value := getattr(metrics, name)) is not None and value > 0
    ]
    if metrics.freshness is None or not seconds(metrics.freshness):
        return lower
    return [*lower, {"freshness": _times(metrics.freshness, Decimal(3))}]


def _worse_machines(spec: PipelineSpec) -> list[dict[str, Any]]:
    metrics = spec.infrastructure_metrics
    used, total = metrics.storage_used_gb, metrics.storage_total_gb
    latency, errors, load = metrics.query_latency_ms, metrics.error_rate_percent, metrics.load_per_core
    busier = [
        {name: round(min(100.0, value + 15), 6)}
        for name in ("cpu_percent", "memory_percent")
        if (value := getattr(metrics, name)) is not None and value < 100
    ]
    return [
        *busier,
        *(
            [{"storage_used_gb": round(used + (total - used) / 2, 6)}]
            if used is not None and total and used < total
            else []
        ),
        *([{"query_latency_ms": 2 * latency}] if latency else []),
        *([{"error_rate_percent": min(100.0, errors + 10)}] if errors is not None and errors < 100 else []),
        *([{"load_per_core": 2 * load + 1}] if load is not None else []),
    ]


_STAYS = "the decision has to stay"

RELATIONS: dict[str, Relation] = {
    "rename_pipeline": Relation(f"The pipeline and the company that owns it get other names: {_STAYS}.", _rename),
    "reorder_keys": Relation(f"The keys of the pipeline file stand in another order: {_STAYS}.", _reorder_keys),
    "change_units": Relation(f"The same amounts are told in other units: {_STAYS}.", _change_units),
    "change_units_in_words": Relation(
        f"Times in the source's own words are told in other units: {_STAYS}.", _change_units_in_words
    ),
    "paraphrase_description": Relation(
        f"The source is described in other words that mean the same: {_STAYS}.", _paraphrase
    ),
    "reorder_sentences": Relation(
        f"The sentences about the source stand in another order: {_STAYS}.", _reorder_sentences
    ),
    "add_irrelevant": Relation(f"Something true that does not matter is told as well: {_STAYS}.", _add_irrelevant),
    "change_region_or_team": Relation(
        f"A region and a team that the pipeline belongs to are named: {_STAYS}.", _change_region_or_team
    ),
    "change_source_brand": Relation(f"The source is another product of the same kind: {_STAYS}.", _change_source_brand),
    "scale_volume": Relation(
        f"Twice or half as much data, on the same side of every threshold: {_STAYS}.", _scale_volume
    ),
    "nudge_metric": Relation(f"One percentage moves by 0.3 points without touching a threshold: {_STAYS}.", _nudge),
    "worsen_one_metric": Relation("One metric gets strictly worse: the decision may not get milder.", _worsen, True),
}
"""Name in suites and tables to relation."""
