"""Two runs side by side: the same cases, the same scorers, every difference with its interval and corrected p."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from common.console import BadInput, CannotJudge, shorten
from common.strict import Name, Strict
from evals.comparison import compare_paired, with_holm
from evals.gate_rules import stage_headlines
from evals.labels import case_labels
from evals.outcomes import Outcomes, outcomes_of
from evals.results import Comparison, comparison, headline_first
from evals.run_folder import RunFolder
from evals.score_table import ScoreTable
from evals.scorers import score_all
from evals.scoring import answered, load_table, rescore
from evals.variant import Variant

Values = NDArray[np.float64]

_SCORED_AGAIN = 300


@dataclass(frozen=True)
class Run:
    """A run with all that is compared about it."""

    folder: RunFolder
    table: ScoreTable
    outcomes: Outcomes

    @classmethod
    def open(cls, path: Path) -> Run:
        """A run as it lies on disk. Raises BadInput when it is none, was not scored, or was by other scorers."""
        folder = RunFolder.open(path)
        run = cls(folder, load_table(folder), outcomes_of(folder))
        _scored_by_these(run)
        return run

    @property
    def name(self) -> str:
        """What tables call it: its folder's own name, also when it was given as `.`."""
        return self.folder.path.resolve().name

    def variant(self, name: str) -> Variant:
        """The variant of that name. Raises KeyError."""
        for one in self.folder.plan.variants:
            if one.name == name:
                return one
        raise KeyError(name)

    def has(self, metric: str) -> bool:
        """Whether this run measures it."""
        return metric.partition("/")[0] in self.table.scorers

    def per_case(self, variant: str, metric: str) -> Values:
        """One value per case of the table, the mean over repeats; NaN where the metric has nothing to say."""
        scorer, _, stage = metric.partition("/")
        values = self.table.per_case(variant, scorer)
        return np.where(np.array(self.table.stages) == stage, values, np.nan) if stage else values

    def metrics(self) -> list[str]:
        """What this run can be compared on."""
        headline, *others = headline_first(self.table.scorers)
        return [headline, *stage_headlines(), *others]


@dataclass(frozen=True)
class Shared:
    """The cases that two runs have in common, word for word."""

    rows_a: NDArray[np.int64]
    """Where they stand in the first run's table."""
    rows_b: NDArray[np.int64]
    families: tuple[str, ...]
    only_a: int
    """Counted cases of the first run that the second lacks."""
    only_b: int
    changed: int
    """Cases with one id in both runs that do not say the same."""


class Compared(Strict):
    """What `compare` found."""

    a: str
    b: str
    """What the runs are called: their folders."""
    simulated: tuple[bool, bool] = Field(strict=False)
    shared_cases: int
    only_a: int
    only_b: int
    changed_cases: int
    pairs: tuple[tuple[Name, Name], ...] = Field(strict=False)
    comparisons: tuple[Comparison, ...] = Field(strict=False)

    @property
    def in_words(self) -> str:
        """How many cases the comparison rests on, and what was left out."""
        left_out = [
            f"{count} {what}"
            for count, what in (
                (self.only_a, "only in A"),
                (self.only_b, "only in B"),
                (self.changed_cases, "of one id but not one content"),
            )
            if count
        ]
        told = f"; left out: {', '.join(left_out)}" if left_out else ""
        return f"{self.shared_cases} cases in both runs{told}"

    def of(self, a: str, b: str) -> Iterator[Comparison]:
        """The comparisons of one pair of variants."""
        return (one for one in self.comparisons if (one.a, one.b) == (a, b))


def named_run(text: str) -> tuple[Path, str | None]:
    """FOLDER or FOLDER#variant; a folder whose own name holds a # is taken as it is."""
    folder, mark, variant = text.rpartition("#")
    return (Path(folder), variant) if mark and not Path(text).exists() else (Path(text), None)


def compare_runs(a: Run, b: Run, variant_a: str | None = None, variant_b: str | None = None) -> Compared:
    """Every scorer of every pair of variants, Holm over all of them. Raises BadInput and CannotJudge."""
    pairs = paired_variants(a.table.variants, b.table.variants, variant_a, variant_b)
    shared = shared_cases(a, b)
    metrics = [metric for metric in a.metrics() if metric in b.metrics()]
    found = [
        (one, other, metric, compare_paired(*values, shared.families))
        for one, other in pairs
        for metric in metrics
        if any_pair(*(values := pair_values(a, b, shared, (one, other), metric)))
    ]
    corrected = with_holm([paired for *_, paired in found])
    told = [
        comparison(one, other, metric, paired) for (one, other, metric, _), paired in zip(found, corrected, strict=True)
    ]
    return Compared(
        a=a.name,
        b=b.name,
        simulated=(a.folder.plan.simulated, b.folder.plan.simulated),
        shared_cases=len(shared.families),
        only_a=shared.only_a,
        only_b=shared.only_b,
        changed_cases=shared.changed,
        pairs=tuple(pairs),
        comparisons=tuple(told),
    )


def paired_variants(
    a: Sequence[str], b: Sequence[str], variant_a: str | None = None, variant_b: str | None = None
) -> list[tuple[str, str]]:
    """Which variants are compared: those chosen, else a single one on each side, else those of one name.

    Raises BadInput for a variant that is not there or when nothing pairs.
    """
    chosen_a, chosen_b = _chosen(a, variant_a), _chosen(b, variant_b)
    if len(chosen_a) == len(chosen_b) == 1:
        return [(chosen_a[0], chosen_b[0])]
    both = [name for name in chosen_a if name in chosen_b]
    if not both:
        raise BadInput(
            f"no variant stands in both runs: the first has {_listed(chosen_a)}, the second {_listed(chosen_b)}; "
            "give them one name, or `compare` one of each as FOLDER#VARIANT"
        )
    return [(name, name) for name in both]


def _chosen(variants: Sequence[str], wanted: str | None) -> list[str]:
    if wanted is None:
        return list(variants)
    if wanted not in variants:
        raise BadInput(f"variant {shorten(wanted, 80)!r} is not in the run; it has {_listed(variants)}")
    return [wanted]


def _listed(names: Sequence[str]) -> str:
    return shorten(", ".join(names))


def shared_cases(a: Run, b: Run) -> Shared:
    """The counted cases that stand in both runs and say the same. Raises CannotJudge when there is none."""
    place_a, place_b = _places(a.table), _places(b.table)
    both = [case_id for case_id in place_a if case_id in place_b]
    same = (
        both if _same_cases(a, b) else [one for one in both if a.folder.cases.by_id(one) == b.folder.cases.by_id(one)]
    )
    if not same:
        changed = f"; {len(both)} ids stand in both and mean other cases" if both else ""
        raise CannotJudge(
            f"{a.folder.path} and {b.folder.path} have no case in common{changed}: run both on the same cases"
        )
    rows_a = np.array([place_a[one] for one in same])
    return Shared(
        rows_a,
        np.array([place_b[one] for one in same]),
        tuple(a.table.families[row] for row in rows_a),
        only_a=len(place_a) - len(both),
        only_b=len(place_b) - len(both),
        changed=len(both) - len(same),
    )


def _places(table: ScoreTable) -> dict[str, int]:
    return {
        case_id: row for row, (case_id, counts) in enumerate(zip(table.case_ids, table.counted, strict=True)) if counts
    }


def _same_cases(a: Run, b: Run) -> bool:
    return a.folder.plan.cases_digest == b.folder.plan.cases_digest


def pair_values(a: Run, b: Run, shared: Shared, pair: tuple[str, str], metric: str) -> tuple[Values, Values]:
    """Both sides' values of one metric over the shared cases."""
    return a.per_case(pair[0], metric)[shared.rows_a], b.per_case(pair[1], metric)[shared.rows_b]


def any_pair(a: Values, b: Values) -> bool:
    """Whether any case has a value on both sides."""
    return bool((~np.isnan(a) & ~np.isnan(b)).any())


def _scored_by_these(run: Run) -> None:
    """A difference between two versions of the scorers must not pass for one between the runs. The first samples in
    order of arrival, which is shuffled, are scored again. Raises BadInput when something else comes of one."""
    plan = run.folder.plan
    for sample in islice(run.folder.samples(), _SCORED_AGAIN):
        number, which, repeat = plan.place(sample.index)
        if sample.error is not None:
            continue
        case, variant = run.folder.cases[number], plan.variants[which]
        now = score_all(answered(case, sample, case_labels(case, variant.policy)))
        values = [now[name].value if name in now else np.nan for name in run.table.scorers]
        if not np.allclose(run.table.values[which, number, repeat], values, atol=1e-9, equal_nan=True):
            told = f"{run.folder.path}: its scores are not what the scorers say today of sample {sample.index}"
            raise BadInput(f"{told}; score it anew: {rescore(run.folder)}")
