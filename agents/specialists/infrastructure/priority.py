"""Priority: how soon the infrastructure needs someone, by a policy's rules."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from agents.facts.spec import InfrastructureMetrics
from agents.labels.hysteresis import Line, judge
from agents.labels.label import Label, RuleFired
from agents.labels.labelling import Finding, NotJudged, decide, lacking, missing, shown, without_impossible
from agents.labels.policy_model import Adaptive, Cpu, Damping, Policy, PriorityRules, Use, WeakSignal
from agents.specialists.infrastructure.disk import disk_findings
from agents.specialists.infrastructure.error_budget import burn_findings

PRIORITIES = ("NORMAL", "HIGH", "CRITICAL")
"""From the mildest to the worst."""
NEEDED = ("cpu_percent", "memory_percent")
"""Without these the priority is UNKNOWN."""


def priority(metrics: InfrastructureMetrics, policy: Policy) -> Label:
    """The worst of what machines, storage, latency and errors say."""
    return decide("priority", PRIORITIES, policy.name, priority_findings(metrics, policy.priority))


def priority_findings(metrics: InfrastructureMetrics, rules: PriorityRules) -> list[Finding]:
    """What every rule says, or that it has nothing to go by."""
    metrics, impossible = without_impossible(metrics)
    return [
        *impossible,
        *missing(metrics, NEEDED, impossible),
        *_cpu(metrics, rules),
        *_use(metrics, "memory_percent", rules.memory, rules),
        *_mean(metrics, rules),
        *_latency(metrics, rules),
        *_load(metrics, rules),
        *_oom_kills(metrics, rules),
        *(disk_findings(metrics, rules.disk) if rules.disk else []),
        *(burn_findings(metrics, rules.error_budget) if rules.error_budget else []),
        *_error_spike(metrics, rules),
        *_consumer_lag(metrics, rules),
    ]


# --- CPU and memory --------------------------------------------------------------------------------------


def _cpu(metrics: InfrastructureMetrics, rules: PriorityRules) -> list[Finding]:
    """What CPU says; where everything else speaks against it, it is at most HIGH."""
    found = _use(metrics, "cpu_percent", rules.cpu, rules)
    weak = rules.cpu.weak_signal
    if weak is None or not any(isinstance(one, RuleFired) and one.level == "CRITICAL" for one in found):
        return found
    evidence = ("query_latency_ms", "latency_slo_ms", "error_rate_percent", "load_per_core", "oom_kills")
    unknown = tuple(name for name in evidence if getattr(metrics, name) is None)
    if unknown:
        return [*found, NotJudged("weak_signal", unknown)]
    if not _all_calm(metrics, weak):
        return found
    facts = {name: getattr(metrics, name) for name in evidence}
    return [_capped(one, facts) if isinstance(one, RuleFired) else one for one in found]


def _all_calm(metrics: InfrastructureMetrics, weak: WeakSignal) -> bool:
    latency, slo = metrics.query_latency_ms, metrics.latency_slo_ms
    errors, load, kills = metrics.error_rate_percent, metrics.load_per_core, metrics.oom_kills
    if latency is None or slo is None or errors is None or load is None or kills is None:
        return False
    return (
        latency <= slo * (weak.latency_percent_of_slo / 100)
        and errors <= weak.error_rate_percent
        and load < weak.load_per_core
        and kills <= weak.oom_kills
    )


def _capped(said: RuleFired, evidence: dict[str, float | int | str]) -> RuleFired:
    if said.level != "CRITICAL":
        return said
    against = ", ".join(f"{name} = {value}" for name, value in evidence.items())
    reason = f"{said.reason}, but high CPU alone is a weak signal: {against}"
    return RuleFired(rule="weak_signal", level="HIGH", reason=reason, facts={**said.facts, **evidence})


def _use(metrics: InfrastructureMetrics, name: str, use: Use | Cpu, rules: PriorityRules) -> list[Finding]:
    """What CPU or memory says by itself."""
    value: float | None = getattr(metrics, name)
    if value is None:
        return lacking(metrics, "above_critical", name)
    earlier = _earlier(metrics, name)
    high, note = use.high, ""
    if high is not None and rules.adaptive:
        high, note = _own_threshold(earlier, high, rules.adaptive)
    found = judge(name, [*earlier, value], _lines(use, high, rules.damping), rules.damping, "NORMAL", note)
    return found or _within_tolerance(name, value, high, use.tolerance, note)


def _earlier(metrics: InfrastructureMetrics, name: str) -> list[float]:
    """The history's values of one metric, oldest first, without the readings that lack it."""
    return [value for reading in metrics.history if (value := getattr(reading, name)) is not None]


def _lines(use: Use, high: float | None, damping: Damping | None) -> list[Line]:
    margin = damping.margin if damping else 0.0
    critical = Line("CRITICAL", "above_critical", use.critical, False, use.critical - margin, _above(use.critical))
    if high is None:
        return [critical]
    limit = high + use.tolerance
    bound = _above(limit) if use.tolerance else f"at least {shown(high)}"
    return [Line("HIGH", "from_high", limit, not use.tolerance, high - margin, bound), critical]


def _above(limit: float) -> str:
    return f"above {shown(limit)}"


def _within_tolerance(name: str, value: float, high: float | None, tolerance: float, note: str) -> list[Finding]:
    """Inside the tolerance a reading does not count: 68, 72, 68, 72 must not flap."""
    if high is None or not tolerance or not high <= value <= high + tolerance:
        return []
    reason = (
        f"{name} is {shown(value)}, within {shown(tolerance)} points above {shown(high)}: one reading does not count"
    )
    return [RuleFired(rule="within_tolerance", level="NORMAL", reason=reason + note, facts={name: value})]


def _own_threshold(earlier: list[float], fixed: float, rules: Adaptive) -> tuple[float, str]:
    """The pipeline's own HIGH threshold within the policy's bounds, and where it comes from."""
    calm = [value for value in earlier if value <= fixed]
    known = f"{len(earlier)} earlier readings"
    if len(calm) >= rules.min_readings:
        learnt, known = calm, f"{len(calm)} earlier readings at or below {shown(fixed)}"
    elif len(earlier) >= rules.min_readings and len(calm) <= round((1 - rules.quantile) * len(earlier), 6):
        learnt = earlier
    else:
        text = f"of {known} {len(calm)} are at or below {shown(fixed)}, and {rules.min_readings} are needed for its own"
        return fixed, f" (fixed threshold: {text})"
    own = round(float(np.quantile(learnt, rules.quantile)), 6)
    bounded = min(max(own, rules.lowest), rules.highest)
    bounds = f", kept within {shown(rules.lowest)} to {shown(rules.highest)}" if bounded != own else ""
    text = f"the {shown(rules.quantile)} quantile of {known} is {shown(own)}{bounds}"
    return bounded, f" (own threshold: {text})"


def _mean(metrics: InfrastructureMetrics, rules: PriorityRules) -> list[Finding]:
    cpu, memory = metrics.cpu_percent, metrics.memory_percent
    if rules.mean is None:
        return []
    if cpu is None or memory is None:
        return lacking(metrics, "mean_from_high", *NEEDED)
    mean = (cpu + memory) / 2
    if mean < rules.mean.high:
        return []
    reason = f"mean of cpu_percent and memory_percent is {shown(mean)}, at least {shown(rules.mean.high)}"
    facts = {"cpu_percent": cpu, "memory_percent": memory}
    return [RuleFired(rule="mean_from_high", level="HIGH", reason=reason, facts={**facts})]


def _oom_kills(metrics: InfrastructureMetrics, rules: PriorityRules) -> list[Finding]:
    if rules.oom_kills is None:
        return []
    kills, memory = metrics.oom_kills, metrics.memory_percent
    if kills is None:
        return lacking(metrics, "oom_kills", "oom_kills")
    if kills <= rules.oom_kills.high:
        return []
    reason, facts = f"oom_kills is {kills}", {"oom_kills": kills}
    full_from = rules.memory.critical if rules.memory.high is None else rules.memory.high
    if memory is None or memory < full_from:
        return [RuleFired(rule="oom_kills", level="HIGH", reason=reason, facts={**facts})]
    reason += f" and memory_percent is {shown(memory)}, at least {shown(full_from)}"
    return [RuleFired(rule="oom_kills", level="CRITICAL", reason=reason, facts={**facts, "memory_percent": memory})]


# --- latency, load, lag, errors --------------------------------------------------------------------------


def _latency(metrics: InfrastructureMetrics, rules: PriorityRules) -> list[Finding]:
    if rules.latency is None:
        return []
    latency, slo = metrics.query_latency_ms, metrics.latency_slo_ms
    if latency is None or slo is None:
        return lacking(metrics, "above_slo", "query_latency_ms", "latency_slo_ms")
    share = rules.latency.high_percent_of_slo
    margin = rules.damping.margin if rules.damping else 0.0
    percent = "" if share == 100 else f"{shown(share)} % of "
    # The share is brought to milliseconds, not the readings to percent: 100 * x / x may come out above 100.
    line = Line(
        level="HIGH",
        rule="above_slo",
        limit=slo * (share / 100),
        inclusive=False,
        ends_below=slo * ((share - margin) / 100),
        bound=f"above {percent}its SLO of {shown(slo)}",
    )
    found = judge(
        "query_latency_ms", [*_earlier(metrics, "query_latency_ms"), latency], [line], rules.damping, "NORMAL"
    )
    return [
        one.model_copy(update={"facts": {**one.facts, "latency_slo_ms": slo}}) if isinstance(one, RuleFired) else one
        for one in found
    ]


def _load(metrics: InfrastructureMetrics, rules: PriorityRules) -> list[Finding]:
    if rules.load_per_core is None:
        return []
    limit, note = rules.load_per_core.high, ": work waits for a CPU"
    return _beyond(metrics, "load_per_core", "load_per_core", "HIGH", limit, note)


def _beyond(
    metrics: InfrastructureMetrics, name: str, rule: str, level: str, limit: float, note: str = ""
) -> list[Finding]:
    """One level above one limit, for the newest reading alone; note: added to the reason."""
    value: float | None = getattr(metrics, name)
    if value is None:
        return lacking(metrics, rule, name)
    if value <= limit:
        return []
    return [
        RuleFired(
            rule=rule, level=level, reason=f"{name} is {shown(value)}, {_above(limit)}{note}", facts={name: value}
        )
    ]


def _consumer_lag(metrics: InfrastructureMetrics, rules: PriorityRules) -> list[Finding]:
    if rules.consumer_lag is None:
        return []
    lag, steps = metrics.consumer_lag, rules.consumer_lag.growing_steps
    if lag is None:
        return lacking(metrics, "consumer_lag", "consumer_lag")
    series = [int(value) for value in _earlier(metrics, "consumer_lag")] + [lag]
    if len(series) <= steps:
        return [NotJudged("consumer_lag", (f"consumer_lag in {steps} readings of history",))]
    last = series[-steps - 1 :]
    if not all(after > before for before, after in pairwise(last)):
        return []
    reason = f"consumer_lag grew in each of the last {steps} steps, from {last[0]} to {lag}"
    facts: dict[str, float | int | str] = {"consumer_lag": lag, "history": f"{len(series) - 1} readings"}
    return [RuleFired(rule="consumer_lag", level="HIGH", reason=reason, facts=facts)]


def _error_spike(metrics: InfrastructureMetrics, rules: PriorityRules) -> list[Finding]:
    if rules.error_rate is None:
        return []
    return _beyond(metrics, "error_rate_percent", "error_spike", "CRITICAL", rules.error_rate.critical)
