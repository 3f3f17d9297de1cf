"""The verdict on a run: passed, failed, or not judged; and in one sentence why.

    pass         every required metric that can fall is shown to be no worse, and no other is shown to be worse
    fail         a metric is shown to be worse, or a level is missed
    not judged   too little evidence for a required metric, too many errors, or runs that cannot be compared

A fail outweighs what could not be judged. The question is about the suite's own cases, which are the same on both
sides: between two runs of one setup only what the model decides varies, case by case. So each case counts by itself
here; `compare` and the report, which speak of cases like these, take whole families. The tests are those of
evals/comparison.py, Holm over all metrics of all variants on the side that fails; label_fit rests on rules and not on a
model, so its fall needs no test.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from common.console import BadInput, CannotJudge, ExitCode
from common.strict import Name, Strict
from evals.compare import Run, Shared, any_pair, pair_values, paired_variants, shared_cases
from evals.comparison import FEWEST_FAMILIES, NonInferiority, gate_verdicts
from evals.gate_rules import HEADLINE, LABEL_FIT, GateRules, metrics
from evals.results import sampling_in_words
from evals.statistics import Estimate, estimate
from evals.variant import Variant

Outcome = Literal["pass", "fail", "not judged"]
EXIT_CODES: dict[Outcome, ExitCode] = {
    "pass": ExitCode.DONE,
    "fail": ExitCode.VERDICT_AGAINST,
    "not judged": ExitCode.NOT_JUDGED,
}
_ROUNDING = 1e-9
SAMPLES, SAMPLES_BEFORE, ERRORS, ERRORS_BEFORE = (
    "samples",
    "samples of the baseline",
    "errors",
    "errors of the baseline",
)
_SOUNDNESS = (SAMPLES, SAMPLES_BEFORE, ERRORS, ERRORS_BEFORE)


class Check(Strict):
    """One thing the gate looked at about one variant."""

    variant: Name
    check: str
    """A metric, `minimum METRIC`, `errors`, `samples` or `required`."""
    outcome: Outcome
    why: str
    """One sentence."""
    required: bool = True
    """False: watched; thin evidence does not stop the gate."""
    open: bool = False
    """Watched, and with too little evidence to say whether it fell."""
    baseline: float | None = None
    candidate: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    """Of a difference: a one-sided 95 % bound each. Of a level: the mean's 95 % interval."""
    margin: float | None = None
    n: int | None = None
    needed_n: int | None = None
    p: float | None = None
    """Of being worse by chance, Holm over every metric of every variant."""


class GateVerdict(Strict):
    """What the gate says, with everything it rests on."""

    outcome: Outcome
    why: str
    """One sentence."""
    suite: str
    baseline: str
    candidate: str
    """Names of the runs' folders; the candidate's is empty when its run could not be made."""
    simulated: bool
    cases: int
    checks: tuple[Check, ...] = Field(strict=False)
    notes: tuple[str, ...] = Field((), strict=False)

    @property
    def exit_code(self) -> ExitCode:
        """What the command ends with."""
        return EXIT_CODES[self.outcome]


@dataclass(frozen=True)
class _Measured:
    """One metric of one pair of variants over the shared cases."""

    variant: str
    metric: str
    a: NDArray[np.float64]
    b: NDArray[np.float64]

    @property
    def key(self) -> tuple[str, str]:
        """Variant and metric."""
        return self.variant, self.metric

    @property
    def means(self) -> tuple[float, float]:
        """Over the cases that both sides have a value for."""
        both = ~np.isnan(self.a) & ~np.isnan(self.b)
        return float(self.a[both].mean()), float(self.b[both].mean())


def judge(baseline: Run, candidate: Run, rules: GateRules) -> GateVerdict:
    """Every variant of the baseline that the candidate has too, on the candidate's cases."""
    try:
        pairs = paired_variants(baseline.table.variants, candidate.table.variants)
        shared = _comparable(baseline, candidate)
    except (BadInput, CannotJudge) as error:
        return not_judged(str(error), baseline, candidate)
    checks = [
        *_soundness_checks(baseline, candidate, pairs, rules),
        *_metric_checks(baseline, candidate, shared, pairs, rules),
    ]
    cases = len(shared.families)
    outcome = worst(check.outcome for check in checks)
    return GateVerdict(
        outcome=outcome,
        why=_why(outcome, checks, pairs, cases),
        suite=candidate.folder.plan.suite.name,
        baseline=baseline.name,
        candidate=candidate.name,
        simulated=baseline.folder.plan.simulated or candidate.folder.plan.simulated,
        cases=cases,
        checks=tuple(checks),
        notes=tuple(_notes(baseline, candidate, shared, pairs)),
    )


def not_judged(why: str, baseline: Run, candidate: Run | None = None) -> GateVerdict:
    """The verdict where nothing could be compared."""
    return GateVerdict(
        outcome="not judged",
        why=f"NOT JUDGED: {why}",
        suite=(candidate or baseline).folder.plan.suite.name,
        baseline=baseline.name,
        candidate=candidate.name if candidate else "",
        simulated=baseline.folder.plan.simulated,
        cases=0,
        checks=(),
    )


def worst(outcomes: Iterator[Outcome]) -> Outcome:
    """A fail outweighs what could not be judged."""
    found = set(outcomes)
    return "fail" if "fail" in found else "not judged" if "not judged" in found or not found else "pass"


def _comparable(baseline: Run, candidate: Run) -> Shared:
    """The cases that are judged. Raises CannotJudge when the runs do not measure the same thing."""
    if baseline.folder.plan.simulated != candidate.folder.plan.simulated:
        real, made_up = ("baseline", "run") if candidate.folder.plan.simulated else ("run", "baseline")
        raise CannotJudge(f"the {made_up}'s answers are the simulator's and the {real}'s are not")
    shared = shared_cases(baseline, candidate)
    lacking = shared.only_b + shared.changed
    if lacking:
        raise CannotJudge(
            f"the baseline {baseline.folder.path} lacks {lacking} of the run's {len(shared.families) + lacking} cases; "
            "make a new baseline by `python -m evals run` on the same suite"
        )
    return shared


# --- samples and endpoint --------------------------------------------------------------------------------


def _soundness_checks(
    baseline: Run, candidate: Run, pairs: Sequence[tuple[str, str]], rules: GateRules
) -> Iterator[Check]:
    for was, now in pairs:
        for run, name, called in ((baseline, was, "baseline"), (candidate, now, "run")):
            if missing := _unasked(run, name):
                why = f"{missing} samples of {name} were never asked in the {called}; go on with it by --resume"
                check = SAMPLES if called == "run" else SAMPLES_BEFORE
                yield Check(variant=now, check=check, outcome="not judged", why=why)
            yield from _errors(run, name, called, now, rules)


def _unasked(run: Run, variant: str) -> int:
    number = run.table.variants.index(variant)
    return int((~run.table.scored[number] & ~run.table.errored[number]).sum())


def _errors(run: Run, name: str, called: str, variant: str, rules: GateRules) -> Iterator[Check]:
    errored = run.table.errored[run.table.variants.index(name)]
    rate, limit = float(errored.mean()), rules.max_error_rate
    if rate <= limit and called == "baseline":
        return
    classes = ", ".join(f"{kind}: {count}" for kind, count in sorted(run.outcomes.errors[name].items()))
    why = f"{int(errored.sum())} of {errored.size} samples of {name} in the {called} got no answer"
    told = f"{why} ({classes}); allowed are {limit:.1%}" if rate > limit else f"{why}; allowed are {limit:.1%}"
    yield Check(
        variant=variant,
        check=ERRORS if called == "run" else ERRORS_BEFORE,
        outcome="not judged" if rate > limit else "pass",
        why=told,
        candidate=rate if called == "run" else None,
        baseline=rate if called == "baseline" else None,
        margin=limit,
        n=errored.size,
    )


# --- metrics ---------------------------------------------------------------------------------------------


def _metric_checks(
    baseline: Run, candidate: Run, shared: Shared, pairs: Sequence[tuple[str, str]], rules: GateRules
) -> Iterator[Check]:
    measured = [
        _Measured(pair[1], metric, a, b)
        for pair in pairs
        for metric in metrics()
        if rules.judges(metric) and baseline.has(metric) and candidate.has(metric)
        for a, b in [pair_values(baseline, candidate, shared, pair, metric)]
        if any_pair(a, b)
    ]
    tested = [one for one in measured if one.metric != LABEL_FIT]
    verdicts = gate_verdicts(
        [(one.metric, one.a, one.b, range(len(one.a)), rules.margin(one.metric)) for one in tested]
    )
    found = dict(zip((one.key for one in tested), verdicts, strict=True))
    checks = [
        _tested(one, verdict, rules) if (verdict := found.get(one.key)) else _by_rules(one, rules) for one in measured
    ]
    yield from checks
    yield from _something_required(pairs, checks, rules)
    for _, now in pairs:
        yield from _levels(candidate, now, rules)


def _tested(one: _Measured, verdict: NonInferiority, rules: GateRules) -> Check:
    before, after = one.means
    # A baseline below the margin cannot fall by it; passing would prove nothing.
    required = one.metric in rules.required and before >= verdict.margin
    outcome: Outcome = "pass"
    if verdict.verdict == "worse":
        outcome = "fail"
    elif verdict.verdict == "not enough evidence" and required:
        outcome = "not judged"
    return Check(
        variant=one.variant,
        check=one.metric,
        outcome=outcome,
        why=_in_words(one, verdict, required),
        required=required,
        open=not required and verdict.verdict == "not enough evidence",
        baseline=before,
        candidate=after,
        difference=verdict.difference,
        low=verdict.low,
        high=verdict.high,
        margin=verdict.margin,
        n=verdict.n,
        needed_n=verdict.needed_n,
        p=verdict.p,
    )


def _in_words(one: _Measured, verdict: NonInferiority, required: bool) -> str:
    name, rests_on = f"{one.metric} of {one.variant}", f"(margin {verdict.margin:g}, n={verdict.n})"
    interval = (
        f" [{verdict.low:+.3f}, {verdict.high:+.3f}]" if verdict.low is not None and verdict.high is not None else ""
    )
    found = f"{verdict.difference:+.3f}{interval} {rests_on}"
    if verdict.verdict == "worse":
        return f"{name} fell: {found}"
    if verdict.verdict == "no worse":
        return f"{name} is no worse: {found}: {verdict.reason}"
    if not required:
        return f"{name} is watched and not shown to be worse: {found}: {verdict.reason}"
    needed = f"; about {verdict.needed_n} cases would tell" if verdict.needed_n else ""
    return f"{name}: too little evidence: {found}: {verdict.reason}{needed}"


def _by_rules(one: _Measured, rules: GateRules) -> Check:
    """label_fit: the same rules give the same labels, so a fall on the same cases is a fact and no estimate."""
    before, after = one.means
    margin, n = rules.margin(one.metric), int((~np.isnan(one.a) & ~np.isnan(one.b)).sum())
    fell = after - before < -margin - _ROUNDING
    moved = "fell" if fell else "did not fall"
    return Check(
        variant=one.variant,
        check=one.metric,
        outcome="fail" if fell else "pass",
        why=f"{one.metric} of {one.variant} {moved}: {before:.3f} to {after:.3f} "
        f"(the policy's labels, margin {margin:g}, n={n})",
        baseline=before,
        candidate=after,
        difference=after - before,
        margin=margin,
        n=n,
    )


def _something_required(pairs: Sequence[tuple[str, str]], checks: Sequence[Check], rules: GateRules) -> Iterator[Check]:
    """A variant of which no required metric could have fallen was not judged; nor one that lacks a metric the suite
    itself requires (those required by default may have nothing to say of the user's cases)."""
    for _, now in pairs:
        mine = {check.check: check for check in checks if check.variant == now}
        for metric in rules.required:
            if metric not in mine and "required" in rules.model_fields_set:
                why = f"{metric} of {now} is required and no case has a value of it in both runs"
                yield Check(variant=now, check=metric, outcome="not judged", why=why)
        if any(metric in mine and mine[metric].required for metric in rules.required):
            continue
        told = [
            f"{metric} was {mine[metric].baseline:.3f}"
            if metric in mine
            else f"{metric} has no case with a value in both"
            for metric in rules.required
        ]
        why = f"no required metric of {now} can fall by its margin ({'; '.join(told)}); name others in gate.required"
        yield Check(variant=now, check="required", outcome="not judged", why=why)


def _levels(candidate: Run, variant: str, rules: GateRules) -> Iterator[Check]:
    for metric, level in sorted(rules.minimum.items()):
        mean = _mean(candidate, variant, metric)
        if mean is None:
            why = f"{metric} of {variant} has no value, a mean of {level:g} is asked for"
            yield Check(variant=variant, check=f"minimum {metric}", outcome="not judged", why=why)
            continue
        yield Check(
            variant=variant,
            check=f"minimum {metric}",
            outcome=_level_outcome(mean, level),
            why=f"{metric} of {variant} is {_told(mean)}, at least {level:g} is asked for",
            candidate=mean.mean,
            low=mean.low,
            high=mean.high,
            margin=level,
            n=mean.n,
        )


def _mean(run: Run, variant: str, metric: str) -> Estimate | None:
    values = run.per_case(variant, metric)[run.table.counted] if run.has(metric) else np.array([])
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    return estimate(known, range(len(known)))


def _told(mean: Estimate) -> str:
    return f"{mean.mean:.2f} (n={mean.n})" if mean.low is None else f"{mean} (n={mean.n})"


def _level_outcome(mean: Estimate, level: float) -> Outcome:
    """A level is missed for sure only when the whole interval lies below it; without one, by enough cases alike."""
    if mean.mean >= level - _ROUNDING:
        return "pass"
    missed = mean.n >= FEWEST_FAMILIES if mean.high is None else mean.high < level
    return "fail" if missed else "not judged"


# --- in words --------------------------------------------------------------------------------------------


def _why(outcome: Outcome, checks: Sequence[Check], pairs: Sequence[tuple[str, str]], cases: int) -> str:
    decisive = sorted((check for check in checks if check.outcome == outcome), key=_first)
    more = f" (and {len(decisive) - 1} more)" if len(decisive) > 1 else ""
    if outcome == "fail":
        return f"FAIL: {decisive[0].why}{more}"
    if outcome == "not judged":
        return f"NOT JUDGED: {decisive[0].why}{more}" if decisive else "NOT JUDGED: there was nothing to check"
    tested = [check for check in decisive if check.required and check.p is not None] or decisive
    variants = "1 variant" if len(pairs) == 1 else f"{len(pairs)} variants"
    return f"PASS: {tested[0].why}; {len(decisive)} checks of {variants} on {cases} cases"


def _first(check: Check) -> tuple[bool, bool, bool, float]:
    """What settles it first: what is required, a run that is not sound, the headline, the largest fall."""
    return (not check.required, check.check not in _SOUNDNESS, check.check != HEADLINE, check.difference or 0.0)


def _notes(baseline: Run, candidate: Run, shared: Shared, pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    if shared.only_a:
        yield f"{shared.only_a} cases of the baseline are not in the run and were not judged"
    was, now = {one for one, _ in pairs}, {other for _, other in pairs}
    for name in baseline.table.variants:
        if name not in was:
            yield f"variant {name} of the baseline is not in the run and was not judged"
    for name in candidate.table.variants:
        if name not in now:
            yield f"variant {name} is new and has nothing to be held against"
    for one, other in pairs:
        yield from _changes(baseline, candidate, one, other)


def _changes(baseline: Run, candidate: Run, was: str, now: str) -> Iterator[str]:
    before, after = baseline.variant(was), candidate.variant(now)
    if was != now:
        yield f"{now} is held against {was}: the only variant on each side"
    if _words(before) != _words(after):
        yield f"prompt of {now} changed"
    if sampling_in_words(before) != sampling_in_words(after):
        yield f"sampling of {now} was {sampling_in_words(before)}; is {sampling_in_words(after)}"
    if before.policy != after.policy:
        yield f"policy of {now} changed"
    if before.model.model != after.model.model:
        yield f"model of {now} was {before.model.model}, is {after.model.model}"


def _words(variant: Variant) -> dict[str, object]:
    """A prompt but for how it is sampled and sent."""
    return variant.prompt.model_dump(exclude={"sampling", "constrained", "parameters"})
