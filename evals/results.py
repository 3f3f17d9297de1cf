"""What a run says: every figure of its tables and pages, as one document that the same answers give byte for byte.

No time, latency or path stands in it: those differ between a run that was interrupted and one that was not.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from agents.specialists.oracle import Difficulty
from agents.specialists.registry import stages
from common.console import BadInput
from common.located import describe
from common.strict import Name, Strict
from common.whole_file import write_whole
from evals import headline
from evals.by_rules import RULES, rules_scores
from evals.comparison import ALPHA, Paired, compare_paired, with_holm
from evals.gate_rules import DECIDED, HEADLINE
from evals.metamorphic import RelationRate, rates
from evals.outcomes import Outcomes, outcomes_of
from evals.run_folder import RunFolder
from evals.score_table import ScoreTable
from evals.scorers import SCORERS
from evals.statistics import Estimate, estimate
from evals.variant import Variant

RESULTS_FILE = "results.json"
MOST_FOR_ALL_PAIRS = 6
"""With more variants than this, each is compared with the baseline only."""

Values = NDArray[np.float64]


class FamilyMean(Strict):
    """The headline over the cases of one family; too few of them for an interval, so the range is told."""

    mean: float
    lowest: float
    highest: float
    n: int


class Figures(Strict):
    """What an answerer earns under one policy."""

    name: Name
    policy: str
    scores: dict[str, Estimate | None]
    """Per scorer, the headline first; None where it had nothing to say of any answer."""
    agents: dict[str, Estimate | None]
    """The headline per stage, which is per agent."""
    difficulties: dict[str, Estimate | None]
    """The headline per difficulty."""
    families: dict[str, FamilyMean | None]
    """The headline per family."""


class VariantResult(Figures):
    """One variant's figures."""

    prompt: str
    """Name and version."""
    model: str
    sampling: str
    simulated: bool
    asked: int
    """Samples of the plan: scored, errored and missing ones."""
    scored: int
    errored: int
    missing: int
    """Samples of the plan that have neither an answer nor an error: the run is not complete."""
    errors: dict[str, int]
    """By class."""
    undecided: int
    """Samples whose answer holds no whole decision; they are scored, as not decided."""


class Comparison(Strict):
    """Two variants on the same cases: `b` minus `a`."""

    a: Name
    b: Name
    scorer: Name
    n: int
    """Pairs: cases that both have a score for."""
    clusters: int
    mean_a: float
    mean_b: float
    difference: float
    low: float | None
    high: float | None
    test: str
    p: float | None
    p_holm: float | None
    """Corrected for every comparison of this document."""
    effect: float | None
    """Mean difference in standard deviations of the differences."""
    mde: float | None
    """The smallest true difference this run finds four times out of five, p being corrected."""

    @property
    def verdict(self) -> Literal["better", "worse", "no difference shown", "too few pairs"]:
        """What the corrected test says of `b`."""
        if self.p_holm is None:
            return "too few pairs"
        if self.p_holm > ALPHA or self.difference == 0:
            return "no difference shown"
        return "better" if self.difference > 0 else "worse"


class Results(Strict):
    """Everything a run says."""

    format: Literal[2] = 2
    suite: Name
    simulated: bool
    """True when any answer is the simulator's: it says nothing about a model."""
    git_sha: str
    cases: int
    """Cases that count in the leaderboard."""
    families: int
    metamorphic_cases: int
    repeats: int
    baseline: Name
    definitions: dict[str, str]
    """Every scorer in words, the headline first."""
    variants: tuple[VariantResult, ...] = Field(strict=False)
    """By headline, the best first."""
    rules: tuple[Figures, ...] = Field(strict=False)
    """What the rules earn on the same cases without a model: one for each policy of the run."""
    comparisons: tuple[Comparison, ...] = Field(strict=False)
    relations: tuple[RelationRate, ...] = Field((), strict=False)

    def of(self, variant: str) -> VariantResult:
        """One variant's figures. Raises KeyError."""
        for one in self.variants:
            if one.name == variant:
                return one
        raise KeyError(variant)

    def rules_under(self, policy: str) -> Figures:
        """What the rules earn under a policy of the run. Raises KeyError."""
        for one in self.rules:
            if one.policy == policy:
                return one
        raise KeyError(policy)

    @property
    def lines(self) -> list[Figures]:
        """Variants and rules together, by headline, the best first."""
        return sorted([*self.variants, *self.rules], key=_by_headline)


# --- in and out ------------------------------------------------------------------------------------------


def write_results(folder: RunFolder, table: ScoreTable) -> Results:
    """Work out a run's results and keep them as results.json."""
    results = compute_results(folder, table)
    write_whole(folder.path / RESULTS_FILE, [results.model_dump_json(indent=1).encode() + b"\n"])
    return results


def load_results(folder: RunFolder) -> Results:
    """A run's results.json. Raises BadInput when there is none or it is of another version."""
    path = folder.path / RESULTS_FILE
    again = f"make it again: python -m evals rescore {folder.path}"
    try:
        return Results.model_validate_json(path.read_text("utf8"))
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); {again}") from None
    except ValidationError as error:
        raise BadInput(f"{describe(error, Results, str(path))}; {again}") from None


def compute_results(folder: RunFolder, table: ScoreTable) -> Results:
    """Every figure of a run, from its scores and samples."""
    plan = folder.plan
    outcomes = outcomes_of(folder)
    difficulties = [case.difficulty for case in folder.cases]
    made = [_variant(one, table, outcomes, difficulties) for one in plan.variants]
    by_rules = rules_scores(folder)
    return Results(
        suite=plan.suite.name,
        simulated=plan.simulated,
        git_sha=plan.git_sha,
        cases=int(table.counted.sum()),
        families=len({family for family, counts in zip(table.families, table.counted, strict=True) if counts}),
        metamorphic_cases=int((~table.counted).sum()),
        repeats=plan.repeats,
        baseline=plan.baseline,
        definitions=definitions(table.scorers),
        variants=tuple(sorted(made, key=_by_headline)),
        rules=tuple(
            _figures(f"{RULES}/{policy}" if len(by_rules) > 1 else RULES, policy, values, table, difficulties)
            for policy, values in by_rules.items()
        ),
        comparisons=tuple(comparisons(table, plan.baseline)),
        relations=tuple(rates(folder)) if not table.counted.all() else (),
    )


def _by_headline(one: Figures) -> tuple[float, str]:
    best = one.scores[HEADLINE]
    return (-best.mean if best else 1.0, one.name)


# --- one line of the leaderboard -------------------------------------------------------------------------


def _variant(variant: Variant, table: ScoreTable, outcomes: Outcomes, difficulties: Sequence[str]) -> VariantResult:
    number = table.variants.index(variant.name)
    errored = int(table.errored[number].sum())
    asked = int(table.errored[number].size)
    scored = int(table.scored[number].sum())
    values = np.column_stack([table.per_case(variant.name, name) for name in table.scorers])
    figures = _figures(variant.name, variant.policy.name, values, table, difficulties)
    return VariantResult(
        **dict(figures),
        prompt=f"{variant.prompt.name} v{variant.prompt.version}",
        model=variant.model.model,
        sampling=sampling_in_words(variant),
        simulated=variant.model.simulated,
        asked=asked,
        scored=scored,
        errored=errored,
        missing=asked - scored - errored,
        errors=dict(sorted(outcomes.errors[variant.name].items())),
        undecided=int((table.values[number, :, :, table.scorers.index(DECIDED)] == 0).sum()),
    )


def _figures(name: str, policy: str, values: Values, table: ScoreTable, difficulties: Sequence[str]) -> Figures:
    """values: one score a case and scorer, shape (cases, scorers)."""
    counted, stage_of, difficulty_of = table.counted, np.array(table.stages), np.array(difficulties)
    headline = values[:, table.scorers.index(HEADLINE)]
    return Figures(
        name=name,
        policy=policy,
        scores={
            scorer: mean_of(values[:, table.scorers.index(scorer)], table, counted)
            for scorer in headline_first(table.scorers)
        },
        agents={stage: mean_of(headline, table, counted & (stage_of == stage)) for stage in stages()},
        difficulties={
            level: mean_of(headline, table, counted & (difficulty_of == level)) for level in get_args(Difficulty)
        },
        families={
            family: _family(headline[counted & (np.array(table.families) == family)])
            for family in sorted({family for family, counts in zip(table.families, counted, strict=True) if counts})
        },
    )


def mean_of(values: Values, table: ScoreTable, among: NDArray[np.bool_]) -> Estimate | None:
    """The mean of one score a case over those cases `among` that have one; None when none has."""
    known = among & ~np.isnan(values)
    if not known.any():
        return None
    groups = [family for family, one in zip(table.families, known, strict=True) if one]
    return estimate(values[known].tolist(), groups)


def _family(values: Values) -> FamilyMean | None:
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    return FamilyMean(mean=float(known.mean()), lowest=float(known.min()), highest=float(known.max()), n=len(known))


def sampling_in_words(variant: Variant) -> str:
    """A variant's sampling in one line."""
    sampling = variant.prompt.sampling
    told = f"temperature {sampling.temperature:g}, top_p {sampling.top_p:g}, at most {sampling.max_tokens} tokens"
    told += f", frequency penalty {sampling.frequency_penalty:g}" if sampling.frequency_penalty else ""
    told += f", seed {sampling.seed}" if sampling.temperature else ""
    told += "" if variant.prompt.constrained else ", no schema"
    return (
        f"{told}, parameters {changed}"
        if (changed := variant.prompt.parameters.model_dump(exclude_defaults=True))
        else told
    )


def headline_first(scorers: Iterable[str]) -> list[str]:
    """The scorers in the order tables show them."""
    return [HEADLINE, *(name for name in scorers if name != HEADLINE)]


# --- pairs -----------------------------------------------------------------------------------------------


def comparisons(table: ScoreTable, baseline: str) -> list[Comparison]:
    """Every pair that is compared, on every scorer that has a score of both, Holm over all of them."""
    found = [
        (a, b, scorer, compare_paired(*_pair(table, a, b, scorer)))
        for a, b in _pairs(table.variants, baseline)
        for scorer in headline_first(table.scorers)
        if _any_pair(table, a, b, scorer)
    ]
    corrected = with_holm([paired for *_, paired in found])
    return [comparison(a, b, scorer, paired) for (a, b, scorer, _), paired in zip(found, corrected, strict=True)]


def comparison(a: str, b: str, scorer: str, paired: Paired) -> Comparison:
    """A test's outcome with the names of what was compared."""
    return Comparison(
        a=a,
        b=b,
        scorer=scorer,
        n=paired.n,
        clusters=paired.clusters,
        mean_a=paired.mean_a,
        mean_b=paired.mean_b,
        difference=paired.difference,
        low=paired.low,
        high=paired.high,
        test=paired.test,
        p=paired.p,
        p_holm=paired.p_holm,
        effect=paired.effect,
        mde=paired.mde,
    )


def _pairs(variants: Sequence[str], baseline: str) -> Iterator[tuple[str, str]]:
    others = [name for name in variants if name != baseline]
    yield from ((baseline, other) for other in others)
    if len(variants) <= MOST_FOR_ALL_PAIRS:
        yield from combinations(others, 2)


def _pair(table: ScoreTable, a: str, b: str, scorer: str) -> tuple[Values, Values, list[str]]:
    counted = table.counted
    families = [family for family, counts in zip(table.families, counted, strict=True) if counts]
    return table.per_case(a, scorer)[counted], table.per_case(b, scorer)[counted], families


def _any_pair(table: ScoreTable, a: str, b: str, scorer: str) -> bool:
    one, other, _ = _pair(table, a, b, scorer)
    return bool((~np.isnan(one) & ~np.isnan(other)).any())


def sentence(one: Comparison) -> str:
    """A comparison in words, with what it rests on."""
    interval = f" [{one.low:+.2f}, {one.high:+.2f}]" if one.low is not None and one.high is not None else ""
    found = f"{one.difference:+.2f}{interval}, n={one.n}"
    least = "" if one.mde is None else f"; this run finds differences from {one.mde:.2f} on"
    if one.mde is not None and one.mde >= 1:
        least = "; this run is too small to find any"
    if one.verdict in {"better", "worse"}:
        return f"{one.b} is {one.verdict} than {one.a} in {one.scorer}: {found}, {p_in_words(one.p_holm)}{least}"
    return f"{one.b} and {one.a}: {one.verdict} in {one.scorer} ({found}, {p_in_words(one.p_holm)}){least}"


def against_rules(one: VariantResult, rules: Figures) -> str | None:
    """That a variant does not beat the rules; None where its whole interval lies above their mean, or either has no
    headline."""
    mean, theirs = one.scores[HEADLINE], rules.scores[HEADLINE]
    if mean is None or theirs is None or (mean.low is not None and mean.low > theirs.mean):
        return None
    interval = f"95 % interval [{mean.low:.2f}, {mean.high:.2f}], " if mean.low is not None else ""
    whom = "the rules" if rules.name == RULES else f"the rules under {rules.policy}"
    return f"{one.name} does not beat {whom}: {mean.mean:.2f} against {theirs.mean:.2f} ({interval}n={mean.n})"


def p_in_words(p: float | None) -> str:
    """A corrected p value as people read it."""
    if p is None:
        return "no p: too few pairs"
    return "p < 0.001 (Holm)" if p < 0.001 else f"p = {p:.3f} (Holm)"


# --- definitions -----------------------------------------------------------------------------------------


def definitions(scorers: Iterable[str]) -> dict[str, str]:
    """Each scorer in its own words, so that a page needs no manual."""
    texts = {HEADLINE: inspect.getdoc(headline) or ""}
    texts |= {name: inspect.getdoc(scorer) or "" for name, scorer in SCORERS.items()}
    return {name: texts[name] for name in headline_first(scorers)}
