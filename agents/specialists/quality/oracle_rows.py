"""Rows 17 to 23 of the oracle table: how bad the data is and what to do about it."""

from __future__ import annotations

import random
from dataclasses import replace

from agents.specialists.oracle import Drawn, Facts, Key, OracleRow, one_of, options, tenths

_STAGE = "quality"

_SOURCE = options(type="PostgreSQL | Kafka topic | REST API | S3 bucket | SaaS CRM")
_CALM = options(
    validity_percent=tenths(99, 100),
    uniqueness_percent=100,
    freshness="5 min | 12 min | 25 min",
    freshness_sla="1 h | 2 h",
    column_criticality="normal",
    issue_count=range(4),
)
"""Whatever does not decide: valid, unique, fresh."""
_SHAM = ("impute_missing", "delete_failing", "lower_thresholds", "rerun_checks")
"""What hides bad data, or makes it worse, whatever is wrong with it."""
LATE = Key(("publish",), ("measure_first",), ("MEDIUM",), (("restart_load", "trace_cause"),), _SHAM)
"""Row 22 between its SLA and twice that: usable, if its age is told."""
VERY_LATE = replace(LATE, right_choices=("block",), wrong_choices=("publish", "measure_first"), labels=("HIGH",))
"""Row 22 above twice its SLA."""
_GOOD = options(completeness_percent=tenths(99, 100), consistency_percent=tenths(99, 100))


def _late(rng: random.Random, drawn: Drawn) -> Drawn:
    """An age above the promise, and the label by how far: above twice it, HIGH."""
    hours: int = drawn.facts["_sla_h"]
    twice = rng.random() < 0.5
    age_h = hours * one_of(rng, (2.2, 3, 5) if twice else (1.1, 1.4, 1.8))
    kept = {name: value for name, value in drawn.facts.items() if name != "_sla_h"}
    aged = kept | {"freshness": f"{age_h:g} h", "freshness_sla": f"{hours} h"}
    return Drawn(aged, VERY_LATE if twice else LATE)


def _without_a_metric(rng: random.Random, drawn: Drawn) -> Drawn:
    """Completeness or consistency was not measured."""
    missing = one_of(rng, ("completeness_percent", "consistency_percent"))
    kept: Facts = {name: value for name, value in drawn.facts.items() if name != missing}
    return replace(drawn, facts=kept)


def _either_dimension(rng: random.Random, drawn: Drawn) -> Drawn:
    """The worst dimension is sometimes the other one."""
    if rng.random() < 0.5:
        return drawn
    facts = drawn.facts
    swapped = {
        "completeness_percent": facts["consistency_percent"],
        "consistency_percent": facts["completeness_percent"],
    }
    return replace(drawn, facts=facts | swapped)


ROWS = (
    OracleRow(
        17,
        "S21,S23",
        _STAGE,
        Key(
            ("publish",),
            ("block", "measure_first"),
            ("LOW",),
            (("monitor",),),
            ("stop_downstream", "delete_failing", "lower_thresholds"),
        ),
        {**_SOURCE, **_GOOD, **options(issue_count=(0, 1))},
        noise=_CALM,
        edge=options(completeness_percent=99, consistency_percent=99, freshness="55 min", freshness_sla="1 h"),
        plain=("Nearly every value is there and agrees with the others.", "The checks found next to nothing."),
        lures=("An auditor is expected next week.", "Last year this table was a mess.", "The table has 400 columns."),
    ),
    OracleRow(
        18,
        "S20,S23",
        _STAGE,
        Key(
            ("publish", "quarantine"),
            ("block", "measure_first"),
            ("LOW", "MEDIUM"),
            (("monitor", "open_ticket"),),
            ("stop_downstream", "impute_missing", "delete_failing"),
        ),
        {
            **_SOURCE,
            **options(
                completeness_percent=range(95, 99),
                consistency_percent=tenths(99, 100),
                issue_count=range(2, 9),
            ),
        },
        noise=_CALM,
        edge=options(completeness_percent=tenths(95, 95.4), column_criticality="normal"),
        plain=(
            "A few optional values are missing; no column is critical.",
            "Some rows lack a phone number or the like.",
        ),
        lures=(
            "One user has complained.",
            "A stricter table is stopped below 99.",
            "The columns hold marketing notes.",
        ),
        finish=_either_dimension,
    ),
    OracleRow(
        19,
        "example,S21",
        _STAGE,
        Key(
            ("quarantine", "publish"),
            ("block", "measure_first"),
            ("LOW", "MEDIUM"),
            (("quarantine_rows", "trace_cause", "open_ticket", "backfill"),),
            ("stop_downstream", *_SHAM),
        ),
        {
            **_SOURCE,
            **options(completeness_percent=range(86, 89), consistency_percent=range(91, 94), issue_count=range(10, 20)),
        },
        easy=options(completeness_percent=87, consistency_percent=92, issue_count=15),
        noise=_CALM,
        edge=options(completeness_percent=tenths(85.5, 86), consistency_percent=tenths(90.5, 91)),
        plain=("About one value in eight is missing.", "{issue_count} issues are open, most of them missing values."),
        lures=("A month ago it was three points better.", "The mean is what the owner looks at.", "Nobody is on call."),
    ),
    OracleRow(
        20,
        "S23",
        _STAGE,
        Key(
            ("block",),
            ("publish", "measure_first"),
            ("HIGH",),
            (("stop_downstream",), ("backfill", "trace_cause")),
            ("monitor", *_SHAM),
        ),
        {
            **_SOURCE,
            **options(
                completeness_percent=range(25, 50),
                consistency_percent=range(97, 101),
                issue_count=range(40, 200),
            ),
        },
        noise=_CALM,
        edge=options(completeness_percent=range(52, 56), consistency_percent=100),
        plain=("More than half of the values are missing.", "What is there agrees, but most of it is not there."),
        lures=(
            "The mean of the two looks fair.",
            "What is there is consistent.",
            "The dashboard is green, since it shows the mean.",
        ),
    ),
    OracleRow(
        21,
        "S11,S20",
        _STAGE,
        Key(
            ("block", "quarantine"),
            ("publish", "measure_first"),
            ("HIGH",),
            (("dedupe_on_key",), ("merge_on_key",)),
            _SHAM,
        ),
        {**_SOURCE, **_GOOD, **options(uniqueness_percent=tenths(93, 98.9), issue_count=range(5, 60))},
        noise={name: values for name, values in _CALM.items() if name != "uniqueness_percent"},
        edge=options(completeness_percent=100, consistency_percent=100, uniqueness_percent=(99.9, 99.95, 99.99)),
        plain=("Some order numbers stand twice.", "A load that was repeated has left keys twice."),
        lures=("Every value is filled in.", "The totals look plausible.", "The load was run again after a time-out."),
    ),
    OracleRow(
        22,
        "S18,S21",
        _STAGE,
        LATE,
        {**_SOURCE, **options(completeness_percent=100, consistency_percent=100, _sla_h=(1, 2, 4, 6))},
        noise=options(validity_percent=tenths(99, 100), uniqueness_percent=100, issue_count=range(3)),
        plain=(
            "The newest record is {freshness} old; {freshness_sla} was promised.",
            "Nothing new has come for {freshness}, against a promise of {freshness_sla}.",
        ),
        lures=("Every check is green.", "Completeness has been 100 for a year.", "Readers open it in the morning."),
        finish=_late,
    ),
    OracleRow(
        23,
        "our rule",
        _STAGE,
        Key(
            ("measure_first",),
            ("publish",),
            ("UNKNOWN",),
            (("measure_missing",),),
            ("impute_missing", "delete_failing", "lower_thresholds"),
        ),
        {
            **_SOURCE,
            **options(completeness_percent=range(90, 100), consistency_percent=range(90, 100), issue_count=range(20)),
        },
        noise={name: values for name, values in _CALM.items() if name != "issue_count"},
        edge=options(completeness_percent=100, consistency_percent=100, issue_count=0),
        plain=("One of the two checks has not run.", "The check that is missing failed to start."),
        lures=("Nobody has complained.", "Last week both figures were above 98.", "What is measured looks perfect."),
        finish=_without_a_metric,
    ),
)
