"""A run's report: report.html, one file that needs nothing else and is the same bytes for the same answers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from agents.asking.requests import stage_request
from agents.specialists.registry import labels_for
from common.whole_file import write_whole
from evals import page
from evals.by_rules import decided_by_rules
from evals.decision_words import Line, decision_lines, key_lines
from evals.gate_rules import HEADLINE
from evals.leaderboard import SIMULATED, below_the_rules, sentences
from evals.results import Comparison, Figures, Results, VariantResult, load_results
from evals.run_folder import RunFolder
from evals.sample import Sample
from evals.scoring import read_samples, scores

REPORT_FILE = "report.html"
WORST_PER_VARIANT = 20
MOST_OF_A_FAMILY = 3
MOST_WORST = 120
"""Of all variants together."""
MOST_OF_A_RELATION = 3
MOST_BROKEN = 240
"""Pairs that broke a metamorphic relation, of all relations and variants together."""
MOST_FAMILIES, MOST_COMPARISONS, MOST_VARIANTS = 100, 300, 40
MOST_REPLIES = 4
"""Of one sample: a decision that is read takes a reply for each question and order."""
LONGEST_TEXT = 2_000
LONGEST_WORD = 240
"""Characters of one scorer's evidence or reason."""


class _Ranked(NamedTuple):
    """A scored sample; they order by how bad it is."""

    headline: float
    mean: float
    """Over all its scores: which of many zeros is the worst."""
    sample: int
    """Its index in the plan."""
    case_id: str
    family: str
    scores: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class _Wanted:
    """How much of a long run is shown."""

    samples: int
    """Worst samples of each variant."""
    broken: int
    """Broken pairs of each variant and relation."""
    variants: int = MOST_VARIANTS
    families: int = MOST_FAMILIES
    comparisons: int = MOST_COMPARISONS


def write_report(folder: RunFolder) -> Path:
    """Write report.html from results.json, scores.jsonl and samples.jsonl. Raises BadInput when one is missing."""
    path = folder.path / REPORT_FILE
    write_whole(path, [report(folder, load_results(folder)).encode()])
    return path


def report(folder: RunFolder, results: Results) -> str:
    """The page. It shows as many of the worst samples as it has room for, and says how many there are."""
    worst = _worst(folder)
    wanted = _Wanted(
        samples=min(WORST_PER_VARIANT, max(1, MOST_WORST // len(results.variants))),
        broken=min(MOST_OF_A_RELATION, MOST_BROKEN // max(1, len(results.relations))),
    )
    while True:
        text = _rendered(folder, results, worst, wanted)
        if len(text.encode()) < page.MOST_BYTES:
            return text
        wanted = _less(wanted)


def _less(wanted: _Wanted) -> _Wanted:
    """Half of everything: first the samples, then the tables."""
    if wanted.samples or wanted.broken:
        return _Wanted(wanted.samples // 2, wanted.broken // 2)
    if wanted.variants <= 1:
        raise AssertionError("one variant without samples does not fit a page")
    return _Wanted(0, 0, wanted.variants // 2, wanted.families // 2, wanted.comparisons // 2)


def _rendered(folder: RunFolder, results: Results, worst: Mapping[str, Sequence[_Ranked]], wanted: _Wanted) -> str:
    variants = results.variants[: wanted.variants]
    shown = {one.name: worst[one.name][: wanted.samples] for one in variants}
    lines = _lines(results, variants)
    return page.render(
        "report.html.j2",
        results=results,
        plan=folder.plan,
        simulated_told=SIMULATED,
        headline=HEADLINE,
        variants=variants,
        lines=lines,
        below_the_rules=below_the_rules(results)[: wanted.variants],
        sentences=list(sentences(results)),
        comparisons=_first_comparisons(results, wanted.comparisons),
        reach=_reach(results.comparisons),
        families=_families(results, lines, wanted),
        most_of_a_family=MOST_OF_A_FAMILY,
        worst=_shown_samples(folder, shown),
        relations=_relations(results, wanted),
        most_broken=wanted.broken,
        relation_meanings={one.relation: one.meaning for one in results.relations},
    )


def _first_comparisons(results: Results, most: int) -> list[Comparison]:
    """The headline's first, then the most certain ones."""

    def place(one: Comparison) -> tuple[bool, float]:
        return (one.scorer != HEADLINE, 1.0 if one.p_holm is None else one.p_holm)

    return sorted(results.comparisons, key=place)[:most]


def _reach(comparisons: Sequence[Comparison]) -> float:
    """The scale that every difference of the table fits on."""
    bounds = [abs(bound) for one in comparisons for bound in (one.low, one.high, one.difference) if bound is not None]
    return max([0.1, *bounds])


def _lines(results: Results, variants: Sequence[VariantResult]) -> list[Figures]:
    """The shown variants and the rules, in the leaderboard's order."""
    shown = {one.name for one in variants}
    return [one for one in results.lines if one.name in shown or not isinstance(one, VariantResult)]


def _families(results: Results, lines: Sequence[Figures], wanted: _Wanted) -> list[tuple[str, list[Any]]]:
    """The families with the lowest headline over all variants first."""

    def mean(family: str) -> float:
        known = [found.mean for one in results.variants if (found := one.families[family])]
        return sum(known) / len(known) if known else 1.0

    names = sorted(results.variants[0].families, key=lambda family: (mean(family), family))
    return [(name, [one.families[name] for one in lines]) for name in names[: wanted.families]]


def _relations(results: Results, wanted: _Wanted) -> dict[str, list[Any]]:
    """Metamorphic rates by relation, the shown variants in the leaderboard's order."""
    place = {one.name: number for number, one in enumerate(results.variants[: wanted.variants])}
    found: dict[str, list[Any]] = defaultdict(list)
    for rate in results.relations:
        if rate.variant in place:
            found[rate.relation].append(rate)
    return {name: sorted(rates, key=lambda rate: place[rate.variant]) for name, rates in found.items()}


# --- the worst samples -----------------------------------------------------------------------------------


def _worst(folder: RunFolder) -> dict[str, list[_Ranked]]:
    """Of each variant the samples with the lowest headline, in one pass; what changed cases show stands under their
    relations."""
    found: dict[str, list[_Ranked]] = {variant.name: [] for variant in folder.plan.variants}
    heads = [(head["family"], head.get("relation")) for head in folder.cases.heads()]
    for row in scores(folder):
        given = row["scores"]
        if not given or given[HEADLINE]["value"] == 1:
            continue
        family, relation = heads[folder.plan.place(row["index"])[0]]
        if relation is None:
            values = [score["value"] for score in given.values()]
            mine = found[row["variant"]]
            mine.append(
                _Ranked(
                    given[HEADLINE]["value"], sum(values) / len(values), row["index"], row["case_id"], family, given
                )
            )
            if len(mine) > 10 * WORST_PER_VARIANT:  # memory stays flat, and sorting is rare
                mine[:] = _chosen(mine)
    return {name: _chosen(ranked) for name, ranked in found.items()}


def _chosen(ranked: list[_Ranked]) -> list[_Ranked]:
    """The worst ones, each case once and few of a family: twenty times the same mistake tells nothing new."""
    chosen: dict[str, _Ranked] = {}
    families = Counter[str]()
    for one in sorted(ranked):
        if one.case_id not in chosen and families[one.family] < MOST_OF_A_FAMILY:
            chosen[one.case_id] = one
            families[one.family] += 1
    return list(chosen.values())[:WORST_PER_VARIANT]


def _shown_samples(folder: RunFolder, shown: Mapping[str, Sequence[_Ranked]]) -> dict[str, list[dict[str, Any]]]:
    """Prompt, decision, replies and reasons of the chosen samples, by variant."""
    samples = read_samples(folder, {one.sample for ranked in shown.values() for one in ranked})
    return {
        name: [_shown(folder, samples[one.sample], one) for one in ranked if one.sample in samples]
        for name, ranked in shown.items()
    }


def _decisive(item: tuple[str, dict[str, Any]]) -> tuple[bool, float, str]:
    """The headline, then what went wrong."""
    name, score = item
    return (name != HEADLINE, score["value"], name)


def _shown(folder: RunFolder, sample: Sample, ranked: _Ranked) -> dict[str, Any]:
    number, which, _ = folder.plan.place(sample.index)
    case, variant = folder.cases[number], folder.plan.variants[which]
    labels = labels_for(case.spec, variant.policy)
    body = stage_request(case.stage, case.spec, variant.prompt, labels, variant.model.model).body
    label, rules = labels[case.stage], decided_by_rules(case, labels)
    return {
        "case": case,
        "label": label.value if label else None,
        "repeat": sample.repeat,
        "headline": ranked.headline,
        "problem": page.cut(sample.problem, LONGEST_WORD) if sample.problem else None,
        "decision": _cut_lines(decision_lines(sample.decision, case.stage)) if sample.decision else [],
        "rules": _cut_lines(decision_lines(rules, case.stage)),
        "as_rules": sample.decision is not None and sample.decision.agrees_with(rules),
        "key": _cut_lines(key_lines(case)),
        "messages": [(one["role"], page.cut(one["content"], LONGEST_TEXT)) for one in body["messages"]],
        "replies": [page.cut(reply.text, LONGEST_TEXT) for reply in sample.replies[:MOST_REPLIES]],
        "more_replies": max(0, len(sample.replies) - MOST_REPLIES),
        "scores": [
            (name, score["value"], page.cut(score["saw"], LONGEST_WORD), page.cut(score["explanation"], LONGEST_WORD))
            for name, score in sorted(ranked.scores.items(), key=_decisive)
        ],
    }


def _cut_lines(lines: Iterable[Line]) -> list[tuple[str, dict[str, Any]]]:
    return [(name, page.cut(told, LONGEST_WORD)) for name, told in lines]
