"""What a policy file may say: every number behind a label, checked for sense. A block left out is a rule left out."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from common.strict import Name, Percent, Strict

Points = Annotated[float, Field(ge=0, le=20)]
Readings = Annotated[int, Field(ge=1, le=1000)]
Positive = Annotated[float, Field(gt=0)]


# --- severity: how bad the data is -----------------------------------------------------------------------


class QualityMean(Strict):
    """Cut-offs for the mean of completeness and consistency, in percent."""

    low: Percent
    """LOW from here on."""
    medium: Percent
    """MEDIUM from here on; HIGH below."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.medium > self.low:
            raise ValueError(f"medium ({self.medium:g}) must not be above low ({self.low:g})")
        return self


class Floors(Strict):
    """What each dimension (completeness, consistency, validity) must reach by itself, in percent."""

    medium: Percent
    """At least MEDIUM below this."""
    high: Percent
    """HIGH below this."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.high > self.medium:
            raise ValueError(f"high ({self.high:g}) must not be above medium ({self.medium:g})")
        return self


class Freshness(Strict):
    """Age of the newest data in multiples of its SLA."""

    medium: Positive
    """MEDIUM above this many times the SLA."""
    high: Positive
    """HIGH above this many times the SLA."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.medium > self.high:
            raise ValueError(f"medium ({self.medium:g}) must not be above high ({self.high:g})")
        return self


class Uniqueness(Strict):
    """Share of records whose key no other record has, in percent."""

    high: Percent
    """HIGH below this."""


class SeverityRules(Strict):
    """Rules for data quality; the worst wins."""

    mean: QualityMean
    floors: Floors | None = None
    critical_floors: Floors | None = None
    """In place of `floors` where the columns are critical."""
    freshness: Freshness | None = None
    uniqueness: Uniqueness | None = None

    @model_validator(mode="after")
    def _critical_is_stricter(self) -> Self:
        normal, critical = self.floors, self.critical_floors
        if normal and critical and (critical.medium < normal.medium or critical.high < normal.high):
            raise ValueError("critical_floors must not be below floors")
        return self


# --- priority: how soon the infrastructure needs someone ---------------------------------------------------


class Use(Strict):
    """Cut-offs for CPU or memory, in percent."""

    critical: Percent
    """CRITICAL above this."""
    high: Percent | None = None
    """HIGH from here on."""
    tolerance: Points = 0.0
    """Points above `high` that readings are allowed before they count, since readings jitter."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.high is not None and self.high + self.tolerance > self.critical:
            raise ValueError(
                f"high ({self.high:g}) plus tolerance ({self.tolerance:g}) must not be above critical "
                f"({self.critical:g})"
            )
        return self


class WeakSignal(Strict):
    """Evidence against a high CPU: when all of it is known and within these, CPU alone is at most HIGH."""

    latency_percent_of_slo: Positive
    """Latency is at most this share of its SLO."""
    error_rate_percent: Percent
    """The error rate is at most this."""
    load_per_core: Positive
    """The run queue per core is below this."""
    oom_kills: Annotated[int, Field(ge=0)]
    """At most so many processes were killed for lack of memory."""


class Cpu(Use):
    """Cut-offs for CPU, and when it is not believed by itself."""

    weak_signal: WeakSignal | None = None


class UseMean(Strict):
    """Cut-off for the mean of CPU and memory, in percent."""

    high: Percent
    """HIGH from here on."""


class Latency(Strict):
    """Latency as a share of its SLO."""

    high_percent_of_slo: Positive
    """HIGH above this."""


class LoadPerCore(Strict):
    """Run queue per core."""

    high: Positive
    """HIGH above this."""


class OomKills(Strict):
    """Processes killed for lack of memory; CRITICAL while memory is at or above its own `high`."""

    high: Annotated[int, Field(ge=0)]
    """HIGH above this many."""


class Disk(Strict):
    """When the storage will be full at its present growth, and how full it is."""

    critical_within_h: Positive
    """CRITICAL when full within so many hours."""
    high_within_h: Positive
    """HIGH when full within so many hours."""
    critical_percent: Percent
    """CRITICAL above this, growing or not."""
    min_readings: Annotated[int, Field(ge=2, le=1000)]
    """So many readings, the newest among them, must know the storage before a forecast is made from them."""
    over_h: Positive
    """A forecast is made over so many last hours and one over the whole history; the sooner counts."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.critical_within_h > self.high_within_h:
            raise ValueError(
                f"critical_within_h ({self.critical_within_h:g}) must not be above high_within_h "
                f"({self.high_within_h:g})"
            )
        return self


class BurnRate(Strict):
    """How many times faster than sustainable the error budget is used, over two windows that must agree."""

    rate: Positive
    short_min: Positive
    long_min: Positive

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.short_min >= self.long_min:
            raise ValueError(f"short_min ({self.short_min:g}) must be below long_min ({self.long_min:g})")
        return self


class ErrorBudget(Strict):
    """Burn rates that need someone."""

    critical: BurnRate
    high: BurnRate

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.high.rate > self.critical.rate:
            raise ValueError(f"high.rate ({self.high.rate:g}) must not be above critical.rate ({self.critical.rate:g})")
        return self


class ErrorRate(Strict):
    """Share of failures, in percent, whatever was promised."""

    critical: Percent
    """CRITICAL above this."""


class ConsumerLag(Strict):
    """Messages that wait."""

    growing_steps: Readings
    """HIGH when the lag grew in each of so many steps up to the newest reading."""


class Damping(Strict):
    """How labels are kept from flapping where there is a history; for CPU, memory and latency."""

    for_readings: Readings
    """A level begins once so many readings in a row are beyond its threshold."""
    keep_readings: Readings
    """It ends once so many in a row are below the threshold by more than the margin."""
    margin: Points
    """In points of percent; for latency, of its SLO."""


class Adaptive(Strict):
    """CPU's and memory's HIGH threshold from the pipeline's own history, within bounds; CRITICAL stays fixed.

    Readings above the fixed HIGH threshold teach nothing, or an incident would become normal by lasting; unless nearly
    all readings are such, since then high is what is usual here.
    """

    quantile: Annotated[float, Field(gt=0, lt=1)]
    """The threshold is this quantile of the earlier readings. Rare outliers do not move it.

    It is also the share of the readings that must be above the fixed threshold to be taken for usual."""
    min_readings: Readings
    """With fewer earlier readings to learn from the fixed threshold holds."""
    lowest: Percent
    highest: Percent

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.lowest > self.highest:
            raise ValueError(f"lowest ({self.lowest:g}) must not be above highest ({self.highest:g})")
        return self


class PriorityRules(Strict):
    """Rules for the infrastructure; the worst wins."""

    cpu: Cpu
    memory: Use
    mean: UseMean | None = None
    latency: Latency | None = None
    load_per_core: LoadPerCore | None = None
    oom_kills: OomKills | None = None
    disk: Disk | None = None
    error_budget: ErrorBudget | None = None
    error_rate: ErrorRate | None = None
    consumer_lag: ConsumerLag | None = None
    damping: Damping | None = None
    adaptive: Adaptive | None = None

    @model_validator(mode="after")
    def _mean_below_critical(self) -> Self:
        lowest = min(self.cpu.critical, self.memory.critical)
        if self.mean and self.mean.high > lowest:
            raise ValueError(f"mean.high ({self.mean.high:g}) must not be above critical ({lowest:g})")
        return self

    @model_validator(mode="after")
    def _levels_can_end(self) -> Self:
        limits = [use.critical if use.high is None else use.high for use in (self.cpu, self.memory)]
        limits += [self.latency.high_percent_of_slo] if self.latency else []
        limits += [self.adaptive.lowest] if self.adaptive else []
        if self.damping and self.damping.margin >= min(limits):
            raise ValueError(
                f"damping.margin ({self.damping.margin:g}) must be below every threshold ({min(limits):g}), "
                "or a level would never end"
            )
        return self

    @model_validator(mode="after")
    def _adaptive_has_room(self) -> Self:
        for name, use in (("cpu", self.cpu), ("memory", self.memory)):
            if self.adaptive and use.high is None:
                raise ValueError(f"adaptive needs {name}.high, which holds while the history is short")
            if self.adaptive and self.adaptive.highest + use.tolerance > use.critical:
                raise ValueError(
                    f"adaptive.highest ({self.adaptive.highest:g}) plus {name}.tolerance ({use.tolerance:g}) must not "
                    f"be above {name}.critical ({use.critical:g})"
                )
        return self


class ApprovalRules(Strict):
    """When a person is asked, beside what labels and actions already ask for."""

    ask_below: Annotated[float, Field(gt=0, le=1)] | None = None
    """A model's decision with any probability below this waits for a person. Probabilities are not calibrated: this is
    a threshold on what the model reports, and says nothing about how often it is right."""


class Policy(Strict):
    """One set of rules for both labels, and for what a person has to approve."""

    name: Name
    description: str
    severity: SeverityRules
    priority: PriorityRules
    approval: ApprovalRules = ApprovalRules()
