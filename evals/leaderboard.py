"""A run's results on the terminal: one line a variant, then what the comparisons say in words."""

from __future__ import annotations

from collections.abc import Iterator

from common import console
from common.console import say
from evals.gate_rules import HEADLINE
from evals.metamorphic import RelationRate
from evals.results import Comparison, Results, VariantResult, sentence
from evals.statistics import Estimate

SIMULATED = "SIMULATOR: answers are made up and say nothing about a model"
MOST_SENTENCES = 12


def print_leaderboard(results: Results) -> None:
    """The variants by headline, each agent's headline and every scorer, then one sentence a comparison."""
    console.table(title(results), ["variant", *_columns(results)], list(_rows(results)), right=_columns(results))
    console.table(
        f"{results.suite}: means of every scorer (0 to 1)",
        ["scorer", *(one.name for one in results.variants)],
        [[scorer, *(shown(one.scores[scorer]) for one in results.variants)] for scorer in results.definitions],
    )
    if results.relations:
        columns = [one.name for one in results.variants]
        console.table(_consistent_of(results), ["relation", *columns], list(_relations(results)), right=columns)
    for line in sentences(results):
        say(line)


def title(results: Results) -> str:
    """What was measured, on how much."""
    warning = f"{SIMULATED}; " if results.simulated else ""
    repeats = f" x {results.repeats} repeats" if results.repeats > 1 else ""
    counts = f"{results.cases} cases of {results.families} families{repeats}"
    return f"{results.suite}: {warning}{counts}; headline, mean [95 % interval]"


def shown(mean: Estimate | None) -> str:
    """A mean for a table."""
    return str(mean) if mean else "unscored"


def sentences(results: Results) -> Iterator[str]:
    """The headline's comparisons, and what else differs, most certain first."""
    headline = [one for one in results.comparisons if one.scorer == HEADLINE]
    others = [one for one in results.comparisons if one.scorer != HEADLINE and one.verdict in {"better", "worse"}]
    told = [*headline, *sorted(others, key=_certainty)]
    yield from (sentence(one) for one in told[:MOST_SENTENCES])
    if len(told) > MOST_SENTENCES:
        yield f"and {len(told) - MOST_SENTENCES} more comparisons in the report"


def _consistent_of(results: Results) -> str:
    return f"{results.suite}: share of changed cases whose advice stayed as it should (metamorphic tests)"


def _relations(results: Results) -> Iterator[list[str]]:
    by_name = {(one.relation, one.variant): one for one in results.relations}
    for relation in dict.fromkeys(one.relation for one in results.relations):
        yield [relation, *(_rate(by_name.get((relation, one.name))) for one in results.variants)]


def _rate(one: RelationRate | None) -> str:
    if one is None or one.rate is None:
        return "not judged"
    told = f"{Estimate(one.rate, one.low, one.high, one.n)}" + (f" n={one.n}" if one.low is not None else "")
    # Where the prompt did not change at all, agreeing is no merit of the model's.
    return f"{told}, {one.same_prompt} the same prompt" if one.same_prompt else told


def _certainty(one: Comparison) -> tuple[float, str, str, str]:
    return (1.0 if one.p_holm is None else one.p_holm, one.scorer, one.a, one.b)


def _columns(results: Results) -> list[str]:
    agents = results.variants[0].agents
    return [HEADLINE, *agents, "n", "asked", "errored", "by rules"]


def _rows(results: Results) -> Iterator[list[object]]:
    for one in results.variants:
        yield [
            one.name,
            shown(one.scores[HEADLINE]),
            *(shown(mean) + (f" n={mean.n}" if mean and mean.low is not None else "") for mean in one.agents.values()),
            _n(one),
            one.asked,
            one.errored,
            one.from_rules,
        ]


def _n(one: VariantResult) -> int:
    headline = one.scores[HEADLINE]
    return headline.n if headline else 0
