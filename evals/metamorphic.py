"""Metamorphic tests: cases made from cases by a relation, and how often the decisions on both agree as they have to.

Two decisions agree when they make the same choice and name the same actions, in whatever order. After a metric got
worse the decision may change, but its most pressing action must not be of a less pressing kind.

At a temperature above zero decisions differ by chance alone. With repeats, the rate at which the decisions on one and
the same case agree is told beside each relation's: only what lies below that is the relation's doing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice, zip_longest
from typing import TypeVar

from pydantic import Field

from agents.facts.spec import PipelineSpec
from agents.specialists.decision import Decision
from agents.specialists.registry import specialist_of
from agents.specialists.specialist import When
from common.console import BadInput, shorten
from common.strict import Name, Strict
from evals.case import Case
from evals.labels import case_labels
from evals.relations import RELATIONS
from evals.run_folder import RunFolder
from evals.sample import Sample
from evals.statistics import Estimate, estimate
from evals.variant import Variant

_WORST_SHOWN = 5
_LONGEST_ID = 200
_KEY = ("right_choices", "wrong_choices", "acceptable_labels", "right_actions", "harmful_actions")
_Item = TypeVar("_Item")

__all__ = ["RELATIONS", "Broken", "Consistency", "RelationRate", "consistent", "metamorphic_cases", "rates", "spread"]


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
    families: dict[str, dict[str, list[int]]] = {}
    for number, case in enumerate(cases):
        if case.relation is None:
            families.setdefault(case.stage, defaultdict(list))[case.family].append(number)
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
    """The case with another pipeline. What was right stays right, unless the pipeline got worse: then the key no longer
    applies, and is cleared."""
    cleared = dict.fromkeys(_KEY, ()) if RELATIONS[relation].worsens else {}
    update = {"id": _id(case, relation), "spec": spec, "of": case.id, "relation": relation, "pair": None, **cleared}
    return case.model_copy(update=update)


def _id(case: Case, relation: str) -> str:
    name = f"{case.id}~{relation}"
    if len(name) <= _LONGEST_ID:
        return name
    digest = sha256(case.id.encode()).hexdigest()[:16]
    return f"{case.id[: _LONGEST_ID - len(relation) - 18]}-{digest}~{relation}"


# --- two decisions ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Consistency:
    """Whether two decisions stand to each other as a relation asks."""

    holds: bool | None
    """None where there is nothing to compare."""
    why: str


def consistent(stage: str, before: Decision | None, after: Decision | None, *, worsens: bool = False) -> Consistency:
    """Whether the decision on a changed case agrees with the one on the case it was made from.

    before, after: None for an answer that holds no decision. worsens: the pipeline got worse, so the decision may
    change but not get milder.
    """
    if before is None and after is None:
        return Consistency(None, "neither answer holds a decision")
    if before is None or after is None:
        which = "before" if before is None else "after"
        return Consistency(False, f"only one of the two answers holds a decision: the one {which} the change does not")
    if worsens:
        was, now = _PRESSING[_soonest(stage, before)], _PRESSING[_soonest(stage, after)]
        told = f"the soonest action was for {_soonest(stage, before)} and is for {_soonest(stage, after)}"
        return Consistency(now >= was, f"milder: {told}" if now < was else told)
    if before.agrees_with(after):
        return Consistency(True, "the same choice and actions")
    if before.choice.id != after.choice.id:
        name = specialist_of(stage).choice.name
        return Consistency(False, f"{name} was {before.choice.id} and is {after.choice.id}")
    one, other = set(before.ids), set(after.ids)
    gone, new = (", ".join(sorted(some)) or "none" for some in (one - other, other - one))
    return Consistency(False, f"other actions; gone: {gone}; new: {new}")


_PRESSING = {When.WATCHING: 0, When.PLANNED: 1, When.NOW: 2}


def _soonest(stage: str, decision: Decision) -> When:
    """When the most pressing of a decision's actions is to be taken, by the catalogue; PLANNED where it has none."""
    known = specialist_of(stage).actions_by_id
    whens = (known[action].when for action in decision.ids if action in known)
    return max(whens, key=_PRESSING.__getitem__, default=When.PLANNED)


# --- rates -----------------------------------------------------------------------------------------------


class Broken(Strict):
    """A pair of answers that a relation does not hold for."""

    case_id: Name
    """The changed case."""
    of: Name
    why: str
    said_before: str
    """What was decided on the case it was made from, or why nothing was."""
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
    """Pairs with an answer missing, no decision in either, or another label given by the variant's policy."""
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
    decision: Decision | None
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
    given = _given(folder, {case.id for pair in pairs for case in (pair.before, pair.after)})
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


def _given(folder: RunFolder, ids: Set[str]) -> dict[_Key, _Given]:
    """What was given to the samples of some cases; nothing where no answer came. The first answer counts."""
    found: dict[_Key, _Given] = {}
    for sample in folder.samples():
        key = (sample.variant, sample.case_id, sample.repeat)
        if sample.case_id in ids and sample.error is None and key not in found:
            found[key] = _Given(sample.request, sample.decision, _said(sample))
    return found


def _said(sample: Sample) -> str:
    decision = sample.decision
    if decision is None:
        return shorten(sample.problem or "no decision", 240)
    return f"{decision.choice.id}: {', '.join(decision.ids)}"


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
        meaning=known.meaning if known else "A relation of the case file's own: the decision has to stay.",
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
    """Whether the variant's policy gives both the same label: with another one, the decision may change."""
    before, after = (case_labels(case, variant.policy)[case.stage] for case in (pair.before, pair.after))
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
            found = consistent(pair.after.stage, before.decision, after.decision, worsens=worsens)
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
            holds = consistent(case.stage, first.decision, again.decision).holds
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
