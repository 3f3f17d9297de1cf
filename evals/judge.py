"""An optional judge: a model that rates the notes of a run's decisions, and how far it agrees with the scorers.

What was decided is scored exactly; a note is text, which scorers do not read. A judge is itself a model and may be
wrong, so nothing rests on it: no gate and no headline. It rates single notes, and, where two variants are named, which
of two notes is better. Pairs are shown in both orders, and only a winner that wins in both counts; how often the order
alone decided is told. A sample without a note is not judged, and counted.

Each judgement is a line of judgements.jsonl when it arrives, a failure too. Asking again reuses what is there: a line
goes by the digest of its request, so other notes, another rubric or another judge are asked anew.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal, overload

import orjson
import uvloop
from pydantic import Field, ValidationError

from agents.asking.endpoint.client import ChatClient, make_client
from agents.asking.endpoint.reply import EndpointFailed, ErrorClass
from agents.labels.label import Label
from agents.specialists.decision import Decision
from agents.specialists.registry import labels_for
from common import console
from common.console import BadInput, CannotJudge, shorten
from common.strict import Name, Strict
from evals import judge_prompt
from evals.agreement import Agreement, agreement
from evals.case import Case
from evals.judge_prompt import Preference, Verdict
from evals.judgements import JUDGEMENTS_FILE, Judgement, JudgementWriter, appending, known_judgements
from evals.metamorphic import spread
from evals.run_folder import RunFolder
from evals.scoring import scores
from evals.statistics import estimate
from evals.variant import Variant
from serving.endpoint import Endpoint

HEADLINE_RIGHT = 0.5
"""A headline from here on counts as right when it is held against the judge's `correct` (ours)."""
_FAILURES_TO_STOP = 20
"""So many failures and not one verdict: the judge is not there."""


class Share(Strict):
    """A mean with its 95 % interval by families."""

    mean: float
    low: float | None
    high: float | None
    n: int


class JudgedVariant(Strict):
    """What the judge says of one variant's notes."""

    variant: Name
    correct: Share
    grounded: Share
    useful: Share
    """1 to 5."""


class PairSummary(Strict):
    """Two variants' notes on the same cases, each pair judged in both orders."""

    a: Name
    b: Name
    n: int
    """Pairs judged in both orders."""
    a_better: int
    b_better: int
    ties: int
    """Neither is better, or the order decided."""
    position_bias: Share | None
    """Share of pairs in which the same place won in both orders: the order decided, and not the notes."""


class JudgeSummary(Strict):
    """What a judge says of a run, and how far to trust it."""

    judge: str
    simulated: bool
    """True when the judge is the simulator: its verdicts are made up."""
    judges_itself: bool
    """Whether the judge is also one of the models judged: models tend to prefer their own words."""
    cases: int
    n: int
    """Judgements with a verdict."""
    reused: int
    """Of these, how many an earlier call had brought."""
    errors: dict[str, int]
    """Judgements that failed, by error class."""
    without_note: int
    """Samples that have no note to judge: none was asked for, it was dropped, or no decision came."""
    variants: tuple[JudgedVariant, ...] = Field(strict=False)
    agreement: Agreement | None
    """None when no sample has both a verdict and a headline."""
    pair: PairSummary | None = None


def judge_run(
    folder: RunFolder,
    endpoint: Endpoint,
    *,
    concurrency: int = 8,
    pairwise: tuple[str, str] | None = None,
    limit: int = 100,
    timeout_s: float = 120.0,
    max_retries: int = 2,
) -> JudgeSummary:
    """Have at most `limit` cases of a scored run judged, spread over stages and families, under every variant.

    pairwise: two variants whose notes are compared as well. Only first repeats are judged, and no metamorphic case.
    Raises BadInput for a variant that is not in the run and for a run without scores, CannotJudge when the judge does
    not answer.
    """
    headlines = _headlines(folder)
    cases = {case.id: case for case in (folder.cases[number] for number in spread(folder.cases)[:limit])}
    noted = _noted(folder, cases)
    asks = [*_single(folder, cases, noted, endpoint.model), *_pairs(folder, cases, noted, endpoint.model, pairwise)]
    path = folder.path / JUDGEMENTS_FILE
    known = known_judgements(path, simulated=endpoint.simulated)
    missing = [ask for ask in asks if ask.key not in known]
    if missing:
        with appending(path) as writer:
            client = make_client(endpoint, timeout_s=timeout_s, max_retries=max_retries, concurrency=concurrency)
            known |= uvloop.run(_ask_all(client, endpoint, missing, writer, concurrency))
    rows = [known[ask.key] for ask in asks]
    return JudgeSummary(
        judge=endpoint.model,
        simulated=endpoint.simulated,
        judges_itself=any(variant.model.model == endpoint.model for variant in folder.plan.variants),
        cases=len(cases),
        n=sum(row.error is None for row in rows),
        reused=len(asks) - len(missing),
        errors=dict(sorted(Counter(str(row.error_class) for row in rows if row.error is not None).items())),
        without_note=len(cases) * len(folder.plan.variants) - len(noted),
        variants=tuple(_by_variant(rows, cases)),
        agreement=_agreement(rows, cases, headlines),
        pair=_pair_summary(rows, cases, *pairwise) if pairwise else None,
    )


# --- what is asked ---------------------------------------------------------------------------------------

_Key = tuple[str, str]
"""Variant and case."""


@dataclass(frozen=True)
class _Ask:
    """One question to the judge."""

    key: str
    body: dict[str, Any]
    case_id: str
    variant: str
    second: str | None = None


def _headlines(folder: RunFolder) -> dict[_Key, float]:
    """First repeats' headlines; none where no answer came."""
    return {
        (row["variant"], row["case_id"]): row["scores"]["headline"]["value"]
        for row in scores(folder)
        if row["repeat"] == 0 and "headline" in row["scores"]
    }


def _noted(folder: RunFolder, cases: Mapping[str, Case]) -> dict[_Key, Decision]:
    """Decisions with a note, of the first repeat of each case."""
    return {
        (sample.variant, sample.case_id): sample.decision
        for sample in folder.samples()
        if sample.repeat == 0 and sample.case_id in cases and sample.decision and sample.decision.note
    }


def _single(folder: RunFolder, cases: Mapping[str, Case], noted: Mapping[_Key, Decision], model: str) -> Iterator[_Ask]:
    for variant in folder.plan.variants:
        for case in cases.values():
            decision = noted.get((variant.name, case.id))
            if decision is not None:
                body = judge_prompt.pointwise(case, _label(case, variant), decision, model)
                yield _Ask(_digest(body, variant.name), body, case.id, variant.name)


def _pairs(
    folder: RunFolder,
    cases: Mapping[str, Case],
    noted: Mapping[_Key, Decision],
    model: str,
    names: tuple[str, str] | None,
) -> Iterator[_Ask]:
    """Both orders of each pair of notes. Raises BadInput for a variant that is not in the run."""
    if names is None:
        return
    variants = {variant.name: variant for variant in folder.plan.variants}
    if unknown := next((name for name in names if name not in variants), None):
        raise BadInput(f"--judge-pair: found {shorten(unknown, 80)!r}; allowed: {', '.join(variants)}")
    if names[0] == names[1]:
        raise BadInput(f"--judge-pair: found {shorten(names[0], 80)!r} twice; name two variants")
    for case in cases.values():
        for first, second in (names, names[::-1]):
            one, other = noted.get((first, case.id)), noted.get((second, case.id))
            if one is not None and other is not None:
                # The label both were told where their policies agree, else none: it would take one's side.
                labels = [_label(case, variants[name]) for name in names]
                label = labels[0] if labels[0] == labels[1] else None
                body = judge_prompt.pairwise(case, label, one, other, model)
                yield _Ask(_digest(body, first, second), body, case.id, first, second)


def _label(case: Case, variant: Variant) -> Label | None:
    return labels_for(case.spec, variant.policy)[case.stage]


def _digest(body: dict[str, Any], *names: str) -> str:
    """Of a request and of whose notes it holds: two variants may say the same."""
    return sha256(orjson.dumps([body, *names], option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


# --- asking ----------------------------------------------------------------------------------------------


async def _ask_all(
    client: ChatClient, endpoint: Endpoint, asks: Sequence[_Ask], writer: JudgementWriter, concurrency: int
) -> dict[str, Judgement]:
    """Every judgement by its key; each is written when it arrives. Raises CannotJudge when the judge is not there."""
    found: dict[str, Judgement] = {}
    failed = 0
    waiting = iter(asks)

    async def work(advance: Callable[[], None]) -> None:
        nonlocal failed
        for ask in waiting:
            row = await _judgement(client, endpoint, ask)
            failed += row.error is not None
            writer.write(row)
            found[ask.key] = row
            advance()
            if failed == len(found) >= _FAILURES_TO_STOP:
                return

    with console.progress("judgements") as bar:
        task = bar.add_task(f"judging by {shorten(endpoint.model, 60)}", total=len(asks))
        async with client:
            await asyncio.gather(*(work(lambda: bar.advance(task)) for _ in range(concurrency)))
    if failed == len(found) or len(found) < len(asks):
        error = next(row.error for row in found.values() if row.error is not None)
        raise CannotJudge(f"the judge at {endpoint.base_url} gave no verdict to {failed} requests: {shorten(error)}")
    return found


async def _judgement(client: ChatClient, endpoint: Endpoint, ask: _Ask) -> Judgement:
    row = Judgement(
        key=ask.key,
        judge=endpoint.model,
        simulated=endpoint.simulated,
        case_id=ask.case_id,
        variant=ask.variant,
        second=ask.second,
    )
    try:
        text = (await client.complete(ask.body)).text
    except EndpointFailed as error:
        return row.model_copy(update={"error": str(error), "error_class": error.error_class})
    try:
        if ask.second is None:
            return row.model_copy(update={"verdict": Verdict.model_validate_json(text)})
        return row.model_copy(update={"preference": Preference.model_validate_json(text)})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"])) or "verdict"
        told = f"the verdict does not fit the schema: {field}: {first['msg']}: {shorten(text, 120)}"
        return row.model_copy(update={"error": told, "error_class": ErrorClass.UNUSABLE_REPLY})


# --- what came of it -------------------------------------------------------------------------------------


def _share(values: Sequence[float], families: Sequence[str]) -> Share:
    found = estimate(values, families)
    return Share(mean=found.mean, low=found.low, high=found.high, n=found.n)


def _by_variant(rows: Sequence[Judgement], cases: Mapping[str, Case]) -> Iterator[JudgedVariant]:
    for variant in dict.fromkeys(row.variant for row in rows):
        judged = [(row.verdict, cases[row.case_id].family) for row in rows if row.variant == variant and row.verdict]
        if not judged:
            continue
        families = [family for _, family in judged]
        # Estimates are of scores from 0 to 1; usefulness is told from 1 to 5.
        useful = _share([(verdict.useful - 1) / 4 for verdict, _ in judged], families)
        yield JudgedVariant(
            variant=variant,
            correct=_share([float(verdict.correct) for verdict, _ in judged], families),
            grounded=_share([float(verdict.grounded) for verdict, _ in judged], families),
            useful=Share(mean=_stars(useful.mean), low=_stars(useful.low), high=_stars(useful.high), n=useful.n),
        )


@overload
def _stars(share: float) -> float: ...
@overload
def _stars(share: None) -> None: ...
def _stars(share: float | None) -> float | None:
    return None if share is None else 1 + 4 * share


def _agreement(
    rows: Sequence[Judgement], cases: Mapping[str, Case], headlines: Mapping[_Key, float]
) -> Agreement | None:
    both = [
        (row.verdict, headlines[key], cases[row.case_id].family)
        for row in rows
        if row.verdict and (key := (row.variant, row.case_id)) in headlines
    ]
    if not both:
        return None
    return agreement(
        correct=[verdict.correct for verdict, _, _ in both],
        useful=[verdict.useful for verdict, _, _ in both],
        headline=[headline for _, headline, _ in both],
        families=[family for _, _, family in both],
        least=HEADLINE_RIGHT,
    )


def _pair_summary(rows: Sequence[Judgement], cases: Mapping[str, Case], a: str, b: str) -> PairSummary:
    places = {(row.case_id, row.variant): row.preference.better for row in rows if row.preference}
    both = [(case_id, places[case_id, a], places[case_id, b]) for case_id in cases if _both(places, case_id, a, b)]
    winners = [_winner(a_first, b_first) for _, a_first, b_first in both]
    biased = [float(a_first == b_first != "tie") for _, a_first, b_first in both]
    families = [cases[case_id].family for case_id, _, _ in both]
    return PairSummary(
        a=a,
        b=b,
        n=len(both),
        a_better=winners.count("a"),
        b_better=winners.count("b"),
        ties=winners.count("tie"),
        position_bias=_share(biased, families) if both else None,
    )


def _both(places: Mapping[_Key, str], case_id: str, a: str, b: str) -> bool:
    return (case_id, a) in places and (case_id, b) in places


def _winner(a_first: str, b_first: str) -> Literal["a", "b", "tie"]:
    """Who wins in both orders. a_first: the place preferred where a's note was shown first."""
    if (a_first, b_first) == ("first", "second"):
        return "a"
    return "b" if (a_first, b_first) == ("second", "first") else "tie"
