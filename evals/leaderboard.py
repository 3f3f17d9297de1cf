"""A run's results on the terminal: one line a variant, then what the comparisons say in words."""

from __future__ import annotations

from collections.abc import Iterator

from common import console
from common.console import say
from evals.gate_rules import HEADLINE
from evals.metamorphic import RelationRate
from evals.results import Comparison, Figures, Results, VariantResult, against_rules, sentence
from evals.statistics import Estimate

SIMULATED = "SIMULATOR: answers are made up and say nothing about a model"
MOST_SENTENCES = 12


def print_leaderboard(results: Results) -> None:
    """Variants and rules by headline, each agent's headline and every scorer, then in words what differs."""
    console.table(title(results), ["variant", *_columns(results)], list(_rows(results)), right=_columns(results))
    console.table(
        f"{results.suite}: means of every scorer (0 to 1)",
        ["scorer", *(one.name for one in results.lines)],
        [[scorer, *(shown(one.scores[scorer]) for one in results.lines)] for scorer in results.definitions],
    )
    if results.relations:
        columns = [one.name for one in results.variants]
        console.table(_consistent_of(results), ["relation", *columns], list(_relations(results)), right=columns)
    for line in (*below_the_rules(results), *sentences(results)):
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


def below_the_rules(results: Results) -> list[str]:
    """One sentence for each variant that does not beat what the rules earn without a model."""
    told = (against_rules(one, results.rules_under(one.policy)) for one in results.variants)
    return [line for line in told if line]


def sentences(results: Results) -> Iterator[str]:
    """The headline's comparisons, and what else differs, most certain first."""
    headline = [one for one in results.comparisons if one.scorer == HEADLINE]
    others = [one for one in results.comparisons if one.scorer != HEADLINE and one.verdict in {"better", "worse"}]
    told = [*headline, *sorted(others, key=_certainty)]
    yield from (sentence(one) for one in told[:MOST_SENTENCES])
    if len(told) > MOST_SENTENCES:
        yield f"and {len(told) - MOST_SENTENCES} more comparisons in the report"


def _consistent_of(results: Results) -> str:
    return f"{results.suite}: share of changed cases whose decision stayed as it should (metamorphic tests)"


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
    return [HEADLINE, *results.variants[0].agents, "n", "asked", "errored", "undecided"]


def _rows(results: Results) -> Iterator[list[object]]:
    for one in results.lines:
        headline = one.scores[HEADLINE]
        yield [
            one.name,
            shown(headline),
            *(shown(mean) + (f" n={mean.n}" if mean and mean.low is not None else "") for mean in one.agents.values()),
            headline.n if headline else 0,
            *_asked(one),
        ]


def _asked(one: Figures) -> list[object]:
    """The rules are asked nothing."""
    return [one.asked, one.errored, one.undecided] if isinstance(one, VariantResult) else ["", "", ""]
