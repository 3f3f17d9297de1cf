"""Metamorphic tests: cases made from cases by a relation, and how often the answers to both agree as they have to.

Two answers agree when they name the same ingestion mode, sound equally urgent, and when at least half of the points
that either of them makes are made by both. Points are the concepts that the oracle table (docs/oracle.md) requires or
forbids anywhere in that stage: other words for the same advice do not count as another advice. After a metric got
worse the advice may change, but must not sound less urgent.

At a temperature above zero answers differ by chance alone. With repeats, the rate at which the answers to one and the
same case agree is told beside each relation's: only what lies below that is the relation's doing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from itertools import islice, zip_longest
from typing import TypeVar

from pydantic import Field, ValidationError

from agents.answers import AnswerForm, read_answer
from agents.asking.requests import labels_for
from agents.claims import levels_not_given
from agents.facts.spec import PipelineSpec
from agents.lexicon import advised, mention
from agents.schema import Recommendation, Stage
from common.console import BadInput, shorten
from common.strict import Name, Strict
from evals.case import Case
from evals.relations import RELATIONS
from evals.run_folder import RunFolder
from evals.sample import Sample
from evals.statistics import Estimate, estimate
from evals.variant import Variant

LEAST_IN_COMMON = 0.5
"""Share of all points made that both answers have to make (ours): one of two may differ, two of three may not."""

_WORST_SHOWN = 5
_LONGEST_ID = 200
_Item = TypeVar("_Item")

__all__ = [
    "RELATIONS",
    "Broken",
    "Consistency",
    "RelationRate",
    "consistent",
    "metamorphic_cases",
    "points",
    "rates",
    "spread",
    "urgency",
]


# --- cases -----------------------------------------------------------------------------------------------


def metamorphic_cases(cases: Sequence[Case], relations: Sequence[str], limit: int) -> list[Case]:
    """At most `limit` changed cases for each relation, spread over stages and families; the same ones every time.

    Raises BadInput for a relation that does not exist.
    """
    if unknown := next((name for name in relations if name not in RELATIONS), None):
        raise BadInput(f"metamorphic.relations: found {shorten(unknown, 80)!r}; allowed: {', '.join(RELATIONS)}")
    stages = _by_stage(cases)
    made = (islice(_in_turn([_made(cases, numbers, relation) for numbers in stages]), limit) for relation in relations)
    return [case for some in made for case in some]


def spread(cases: Sequence[Case]) -> list[int]:
    """The numbers of the cases that are no one's change, in an order in which every beginning has its share of each
    stage, and of each family in it."""
    return list(_in_turn(_by_stage(cases)))


def _by_stage(cases: Sequence[Case]) -> list[list[int]]:
    """Each stage's cases by number, one of each family in turn."""
    families: dict[Stage, dict[str, list[int]]] = {stage: defaultdict(list) for stage in Stage}
    for number, case in enumerate(cases):
        if case.relation is None:
            families[case.stage][case.family].append(number)
    return [list(_in_turn(list(numbers.values()))) for numbers in families.values()]


def _in_turn(streams: Sequence[Iterable[_Item]]) -> Iterator[_Item]:
    """One of each stream, then another one of each, until all are used."""
    for row in zip_longest(*streams):
        yield from (item for item in row if item is not None)


def _made(cases: Sequence[Case], numbers: Iterable[int], relation: str) -> Iterator[Case]:
    for number in numbers:
        if (spec := RELATIONS[relation](cases[number])) is not None:
            yield _changed(cases[number], relation, spec)


def _changed(case: Case, relation: str, spec: PipelineSpec) -> Case:
    """The case with another pipeline. What was right stays right, unless the pipeline got worse: then nobody has said
    what is right, and nothing is asked of it."""
    unknown = {"acceptable_labels": (), "required": (), "forbidden": ()} if RELATIONS[relation].worsens else {}
    update = {"id": _id(case, relation), "spec": spec, "of": case.id, "relation": relation, "pair": None, **unknown}
    return case.model_copy(update=update)


def _id(case: Case, relation: str) -> str:
    name = f"{case.id}~{relation}"
    if len(name) <= _LONGEST_ID:
        return name
    digest = sha256(case.id.encode()).hexdigest()[:16]
    return f"{case.id[: _LONGEST_ID - len(relation) - 18]}-{digest}~{relation}"


# --- two answers -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Consistency:
    """Whether two answers stand to each other as a relation asks."""

    holds: bool | None
    """None where there is nothing to compare."""
    why: str


_CALM, _PLAIN, _ALARMED = range(3)
_TONES = ("calm", "neither calm nor urgent", "urgent")
_ALARMS = ("urgent_advice", "halts_data")
_CALMS = ("does_nothing", "claims_healthy")
_CLAIMED = {"LOW": _CALM, "NORMAL": _CALM, "MEDIUM": _PLAIN, "HIGH": _ALARMED, "CRITICAL": _ALARMED}


def consistent(
    stage: Stage, before: Recommendation | None, after: Recommendation | None, *, worsens: bool = False
) -> Consistency:
    """Whether the answer to a changed case agrees with the one to the case it was made from.

    before, after: None for an answer that does not fit its schema. worsens: the pipeline got worse, so the advice may
    change but not get milder.
    """
    if before is None and after is None:
        return Consistency(None, "neither answer fits its schema")
    if before is None or after is None:
        which = "before" if before is None else "after"
        return Consistency(False, f"only one of the two answers fits its schema: the one {which} the change does not")
    if before == after:
        return Consistency(True, "the same words")
    was, now = urgency(before.text), urgency(after.text)
    if worsens:
        told = f"the advice was {_TONES[was]} and is {_TONES[now]}"
        return Consistency(now >= was, f"milder: {told}" if now < was else told)
    return _agreement(stage, before, after, was, now)


def _agreement(stage: Stage, before: Recommendation, after: Recommendation, was: int, now: int) -> Consistency:
    if before.mode != after.mode:
        return Consistency(False, f"mode was {before.mode} and is {after.mode}")
    if was != now:
        return Consistency(False, f"the advice was {_TONES[was]} and is {_TONES[now]}")
    one, other = points(stage, before.text), points(stage, after.text)
    either, both = one | other, one & other
    if len(both) < LEAST_IN_COMMON * len(either):
        told = f"only {len(both)} of {len(either)} points are made in both answers"
        gone, new = (", ".join(sorted(some)) or "none" for some in (one - other, other - one))
        return Consistency(False, f"{told}; gone: {gone}; new: {new}")
    return Consistency(True, f"{len(both)} of {len(either)} points are made in both answers")


def urgency(text: str) -> int:
    """How urgent an advice sounds: 0 calm, 1 neither, 2 urgent. The most urgent word counts; watching alone is calm."""
    claimed = [_CLAIMED[level] for said in levels_not_given(text, None) for level in _CLAIMED if level in said.upper()]
    if _ALARMED in claimed or any(advised(text, concept) for concept in _ALARMS):
        return _ALARMED
    watches = mention(text, "monitor") is not None and advised(text, "remedy") is None
    calm = watches or _CALM in claimed or any(advised(text, concept) for concept in _CALMS)
    return _CALM if calm else _PLAIN


def points(stage: Stage, text: str) -> frozenset[str]:
    """The points a text makes, of those that cases of this stage require or forbid."""
    return frozenset(concept for concept in _points_of(stage) if mention(text, concept))


@cache
def _points_of(stage: Stage) -> tuple[str, ...]:
    from evals.generate import generate  # the oracle's rows; who only makes cases need not load them

    rounds = generate(204, 0)  # each of the 34 rows several times
    return tuple(sorted({name for case in rounds if case.stage is stage for name in (*case.required, *case.forbidden)}))


# --- rates -----------------------------------------------------------------------------------------------


class Broken(Strict):
    """A pair of answers that a relation does not hold for."""

    case_id: Name
    """The changed case."""
    of: Name
    why: str
    said_before: str
    """The answer to the case it was made from, shortened."""
    said_after: str


class RelationRate(Strict):
    """How often one variant's answers stood to each other as a relation asks."""

    variant: Name
    relation: Name
    meaning: str
    """What is changed and what is asked of the answer."""
    rate: float | None
    """Share of consistent pairs; None when none could be judged."""
    low: float | None
    high: float | None
    """95 % interval by families."""
    n: int
    """Pairs judged: a changed case and its base, for each repeat."""
    same_prompt: int
    """Of these, how many times the model got the same prompt: there the rate is no merit of the model's."""
    not_judged: int
    """Pairs with an answer missing, neither answer readable, or another label given by the variant's policy."""
    self_rate: float | None = None
    """How often answers to one and the same base case agree between repeats; None without repeats."""
    self_low: float | None = None
    self_high: float | None = None
    self_n: int = 0
    worst: tuple[Broken, ...] = Field((), strict=False)
    """The first pairs that broke, in the run's order."""


@dataclass(frozen=True, slots=True)
class _Given:
    """What was given to one sample."""

    request: str
    advice: Recommendation | None
    said: str


@dataclass(frozen=True)
class _Pair:
    """A changed case and the one it was made from, as far as a comparison needs them."""

    after: Case
    before: Case


def rates(folder: RunFolder) -> list[RelationRate]:
    """Every variant's rate for every relation in a run, in the run's order. A run without changed cases has none.

    Memory grows with the changed cases alone, not with the run.
    """
    pairs = _pairs(folder)
    if not pairs:
        return []
    given = _given(folder, {case.id: case.stage for pair in pairs for case in (pair.before, pair.after)})
    relations = dict.fromkeys(pair.after.relation or "" for pair in pairs)
    return [
        _rate(folder, variant, relation, [pair for pair in pairs if pair.after.relation == relation], given)
        for variant in folder.plan.variants
        for relation in relations
    ]


def _pairs(folder: RunFolder) -> list[_Pair]:
    changed = [
        folder.cases.by_id(head["id"]) for head in folder.cases.heads() if head.get("relation") and head.get("of")
    ]
    return [_Pair(case, folder.cases.by_id(case.of)) for case in changed if case.of is not None]


_Key = tuple[str, str, int]
"""Variant, case and repeat."""


def _given(folder: RunFolder, stages: Mapping[str, Stage]) -> dict[_Key, _Given]:
    """What was given to the samples of some cases; nothing where no answer came. The first answer counts."""
    forms = {variant.name: variant.prompt.form for variant in folder.plan.variants}
    found: dict[_Key, _Given] = {}
    for sample in folder.samples():
        key = (sample.variant, sample.case_id, sample.repeat)
        if sample.case_id in stages and sample.error is None and key not in found:
            found[key] = _read(sample, forms[sample.variant], stages[sample.case_id])
    return found


def _read(sample: Sample, form: AnswerForm, stage: Stage) -> _Given:
    raw = sample.replies[-1].text if sample.replies else ""
    advice = sample.recommendation
    if advice is None:
        try:
            advice = read_answer(raw, form, stage)
        except ValidationError:
            return _Given(sample.request, None, shorten(raw, 240))
    mode = f"{advice.mode}: " if advice.mode else ""
    return _Given(sample.request, advice, shorten(mode + advice.text, 240))


@dataclass(frozen=True)
class _Judged:
    """One pair of answers, compared."""

    pair: _Pair
    found: Consistency
    before: _Given
    after: _Given


def _rate(
    folder: RunFolder, variant: Variant, relation: str, pairs: Sequence[_Pair], given: Mapping[_Key, _Given]
) -> RelationRate:
    known = RELATIONS.get(relation)
    comparable = [pair for pair in pairs if (known and known.worsens) or _same_label(pair, variant)]
    worsens = known is not None and known.worsens
    judged = list(_judged(variant, comparable, range(folder.plan.repeats), given, worsens))
    rate = _share((bool(one.found.holds), one.pair.before.family) for one in judged)
    alone = _share(_with_themselves(variant, pairs, folder.plan.repeats, given))
    return RelationRate(
        variant=variant.name,
        relation=relation,
        meaning=known.meaning if known else "A relation of the case file's own: the advice has to stay.",
        rate=rate.mean if rate else None,
        low=rate.low if rate else None,
        high=rate.high if rate else None,
        n=len(judged),
        same_prompt=sum(one.before.request == one.after.request for one in judged),
        not_judged=len(pairs) * folder.plan.repeats - len(judged),
        self_rate=alone.mean if alone else None,
        self_low=alone.low if alone else None,
        self_high=alone.high if alone else None,
        self_n=alone.n if alone else 0,
        worst=tuple(_broken(one) for one in judged if not one.found.holds)[:_WORST_SHOWN],
    )


def _same_label(pair: _Pair, variant: Variant) -> bool:
    """Whether the variant's policy gives both the same label: with another one, the advice may change."""
    before, after = (labels_for(case.spec, variant.policy)[case.stage] for case in (pair.before, pair.after))
    return (before and before.value) == (after and after.value)


def _judged(
    variant: Variant, pairs: Iterable[_Pair], repeats: range, given: Mapping[_Key, _Given], worsens: bool
) -> Iterator[_Judged]:
    """The pairs that have both answers and can be compared, repeat by repeat."""
    for pair in pairs:
        for repeat in repeats:
            before = given.get((variant.name, pair.before.id, repeat))
            after = given.get((variant.name, pair.after.id, repeat))
            if before is None or after is None:
                continue
            found = consistent(pair.after.stage, before.advice, after.advice, worsens=worsens)
            if found.holds is not None:
                yield _Judged(pair, found, before, after)


def _with_themselves(
    variant: Variant, pairs: Iterable[_Pair], repeats: int, given: Mapping[_Key, _Given]
) -> Iterator[tuple[bool, str]]:
    """Whether each base case's later answers agree with its first one, and its family."""
    for case in {pair.before.id: pair.before for pair in pairs}.values():
        first = given.get((variant.name, case.id, 0))
        for repeat in range(1, repeats):
            again = given.get((variant.name, case.id, repeat))
            if first is None or again is None:
                continue
            holds = consistent(case.stage, first.advice, again.advice).holds
            if holds is not None:
                yield holds, case.family


def _share(outcomes: Iterable[tuple[bool, str]]) -> Estimate | None:
    """The share of outcomes that hold, with its interval by families; None when there are none."""
    both = list(outcomes)
    return estimate([float(holds) for holds, _ in both], [family for _, family in both]) if both else None


def _broken(one: _Judged) -> Broken:
    return Broken(
        case_id=one.pair.after.id,
        of=one.pair.before.id,
        why=one.found.why,
        said_before=one.before.said,
        said_after=one.after.said,
    )
