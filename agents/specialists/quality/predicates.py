"""What may hold of a pipeline's data. The catalogue names these as reasons for and against its actions.

Each reads measured figures and the severity's rules, never the description. S-numbers are those of docs/oracle.md.
"""

from __future__ import annotations

from agents.facts.spec import PipelineSpec
from agents.facts.units import seconds
from agents.labels.label import UNKNOWN, Label, level
from agents.specialists.quality.causes import FAIR_PERCENT, causes
from agents.specialists.quality.severity import DIMENSIONS
from agents.specialists.specialist import Predicate

GOOD_PERCENT = 99.0
"""From here on a dimension is good: row 17; the figure is ours."""


# --- the severity ----------------------------------------------------------------------------------------


def low(_spec: PipelineSpec, label: Label | None) -> bool:
    """The severity is LOW: the data flows and is watched (S21, S23)."""
    return level(label) == "LOW"


def high(_spec: PipelineSpec, label: Label | None) -> bool:
    """The severity is HIGH, or HIGH by what is known: watching or sparing the checks is no answer (S23)."""
    return level(label) == "HIGH"


def unusable(_spec: PipelineSpec, label: Label | None) -> bool:
    """HIGH by more than the data's age: who reads it is misled (S23)."""
    return level(label) == "HIGH" and causes(label) != {"freshness"}


def unmeasured(_spec: PipelineSpec, label: Label | None) -> bool:
    """A metric that the severity needs is missing or cannot be (row 23, ours)."""
    return label is None or label.value == UNKNOWN


def much_missing(_spec: PipelineSpec, label: Label | None) -> bool:
    """The severity is about completeness: values that exist at the source have to be brought (S23)."""
    return "completeness_percent" in causes(label)


def form_broken(_spec: PipelineSpec, label: Label | None) -> bool:
    """The severity is about consistency or validity: what the source may send has to be agreed on (S23)."""
    return not causes(label).isdisjoint(("consistency_percent", "validity_percent"))


def age_only(spec: PipelineSpec, label: Label | None) -> bool:
    """The severity is about nothing but the data's age, and no row is known to fail (row 22; S18, S21)."""
    return causes(label) == {"freshness"} and not rows_fail(spec, label) and not keys_twice(spec, label)


# --- what was measured -----------------------------------------------------------------------------------


def rows_fail(spec: PipelineSpec, _label: Label | None) -> bool:
    """A dimension is below what practice only warns at: failing rows are worth a look (S20, S23; figure ours)."""
    return any(value < FAIR_PERCENT for value in _dimensions(spec))


def nothing_fails(spec: PipelineSpec, label: Label | None) -> bool:
    """LOW, no issue is open, and nothing measured is below good: there is no row to treat (row 17; S21)."""
    return (
        low(spec, label)
        and spec.quality_metrics.issue_count == 0
        and all(value >= GOOD_PERCENT for value in _dimensions(spec))
        and not keys_twice(spec, label)
        and not stale(spec, label)
    )


def issues_open(spec: PipelineSpec, label: Label | None) -> bool:
    """Checks found issues that no level above MEDIUM comes of: keep the data and have them seen to (S20, S23)."""
    return bool(spec.quality_metrics.issue_count) and not high(spec, label)


def complete(spec: PipelineSpec, label: Label | None) -> bool:
    """Completeness is known and good, and nothing is late: nothing is left to bring (S23; the figure is ours)."""
    value = spec.quality_metrics.completeness_percent
    return value is not None and value >= GOOD_PERCENT and not stale(spec, label)


def no_gap_known(spec: PipelineSpec, _label: Label | None) -> bool:
    """Completeness is good or was not measured: no gap is known that could be filled (ours)."""
    value = spec.quality_metrics.completeness_percent
    return value is None or value >= GOOD_PERCENT


def keys_twice(spec: PipelineSpec, _label: Label | None) -> bool:
    """Some keys stand twice (S11, S20)."""
    value = spec.quality_metrics.uniqueness_percent
    return value is not None and value < 100


def keys_unique(spec: PipelineSpec, _label: Label | None) -> bool:
    """Keys were checked, and each stands once: there is no duplicate to remove (S20)."""
    value = spec.quality_metrics.uniqueness_percent
    return value is not None and value >= 100


def no_repeat_to_mend(spec: PipelineSpec, label: Label | None) -> bool:
    """LOW, and each key stands once: no load has to be run again or merged (ours)."""
    return low(spec, label) and keys_unique(spec, label)


def stale(spec: PipelineSpec, _label: Label | None) -> bool:
    """The newest data is older than was promised (S18, S21)."""
    age, promised = _ages(spec)
    return age is not None and promised is not None and age > promised


def fresh(spec: PipelineSpec, _label: Label | None) -> bool:
    """The newest data is known to be no older than was promised: no load is late (S18, S21)."""
    age, promised = _ages(spec)
    return age is not None and promised is not None and age <= promised


def critical_columns(spec: PipelineSpec, _label: Label | None) -> bool:
    """The columns carry money, identity, safety or law: nothing is made up, dropped or let pass there (S20, S23)."""
    return spec.quality_metrics.column_criticality == "critical"


def label_is_known(spec: PipelineSpec, label: Label | None) -> bool:
    """No metric is missing that the severity needs: another one would change nothing that is decided (ours)."""
    return not unmeasured(spec, label)


def _dimensions(spec: PipelineSpec) -> list[float]:
    """Completeness, consistency and validity, as far as they are known."""
    return [value for name in DIMENSIONS if (value := getattr(spec.quality_metrics, name)) is not None]


def _ages(spec: PipelineSpec) -> tuple[float | None, float | None]:
    """The data's age and the age that was promised, in seconds."""
    age, promised = spec.quality_metrics.freshness, spec.quality_metrics.freshness_sla
    return (None if age is None else seconds(age)), (None if promised is None else seconds(promised))


PREDICATES: dict[str, Predicate] = {
    predicate.__name__: predicate
    for predicate in (
        low,
        high,
        unusable,
        unmeasured,
        much_missing,
        form_broken,
        age_only,
        rows_fail,
        nothing_fails,
        issues_open,
        complete,
        no_gap_known,
        keys_twice,
        keys_unique,
        no_repeat_to_mend,
        stale,
        fresh,
        critical_columns,
        label_is_known,
    )
}
