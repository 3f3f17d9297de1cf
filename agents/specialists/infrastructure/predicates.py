"""What may hold of a pipeline's machines. The catalogue names these as reasons for and against its actions.

Each reads measured figures and the priority's rules, never the description. S-numbers are those of docs/oracle.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from agents.facts.spec import PipelineSpec
from agents.labels.label import UNKNOWN, Label, level
from agents.specialists.infrastructure.causes import causes, deciding
from agents.specialists.specialist import Predicate
from agents.specialists.told import SERIES

IDLE_BELOW_PERCENT = 30.0
"""CPU and memory both below this are nearly idle: row 32 has 12 and 18, the line is ours."""
HALF_PERCENT = 50.0
"""CPU or memory from here on is no machine to halve (ours)."""
ROOM_BELOW_PERCENT = 60.0
"""CPU or memory below this has room: the CPU target of row 25 (ours)."""
DISK_ROOM_BELOW_PERCENT = 80.0
"""Storage below this has room while nothing fills it: node-mixin looks at less than 20 % left (S27)."""
DISK_DAYS = 30.0
"""Storage that is not full within so many days is flat (ours)."""
SWING_POINTS = 2.0
"""Readings have to differ by more than this to swing: the tolerance of the policy `standard` (ours)."""
SWING_SHARE = 0.75
"""So much of the steps has to turn back for a swing (ours)."""
SWING_READINGS = 5
"""With fewer readings a swing cannot be told from chance (ours)."""

_USE = ("cpu_percent", "memory_percent")
_HARM = {"error_rate_percent", "query_latency_ms", "storage_used_gb", "consumer_lag", "oom_kills"}


# --- the priority ----------------------------------------------------------------------------------------


def calm(_spec: PipelineSpec, label: Label | None) -> bool:
    """The priority is NORMAL: no rule asks for anything (rows 30, 32 and 34; S27)."""
    return level(label) == "NORMAL"


def pressing(_spec: PipelineSpec, label: Label | None) -> bool:
    """HIGH or CRITICAL: something is scarce, slow or failing (S25)."""
    return level(label) in ("HIGH", "CRITICAL")


def critical(_spec: PipelineSpec, label: Label | None) -> bool:
    """CRITICAL, or that by what is known: only looking on is no answer (S27, S28)."""
    return level(label) == "CRITICAL"


def not_critical(_spec: PipelineSpec, label: Label | None) -> bool:
    """Not CRITICAL by what is known: nothing justifies a loss that cannot be undone (ours)."""
    return level(label) != "CRITICAL"


def unmeasured(_spec: PipelineSpec, label: Label | None) -> bool:
    """A metric that the priority needs is missing or cannot be (row 23, ours)."""
    return label is None or label.value == UNKNOWN


def only_busy(_spec: PipelineSpec, label: Label | None) -> bool:
    """The priority is about a busy CPU alone, against all other evidence (row 24; S25, S27)."""
    weak = any(rule.rule == "weak_signal" for rule in deciding(label))
    return weak and causes(label) == {"cpu_percent"}


def harm_is_certain(_spec: PipelineSpec, label: Label | None) -> bool:
    """Errors, slowness, kills, lag or a filling disk: it harms already, or will by itself (S26, S27, S28)."""
    return not causes(label).isdisjoint(_HARM)


def requests_fail(_spec: PipelineSpec, label: Label | None) -> bool:
    """Errors made the priority CRITICAL, or are all that made it HIGH (row 26; S28)."""
    about = causes(label)
    return "error_rate_percent" in about and (level(label) == "CRITICAL" or len(about) == 1)


def processes_killed(_spec: PipelineSpec, label: Label | None) -> bool:
    """The priority is about processes killed for lack of memory (row 27; S27, S33)."""
    return "oom_kills" in causes(label)


def memory_scarce(_spec: PipelineSpec, label: Label | None) -> bool:
    """The priority is about memory: its use, or processes killed for lack of it (rows 27 and 33; S27, S33)."""
    return not causes(label).isdisjoint(("memory_percent", "oom_kills"))


def cpu_scarce(spec: PipelineSpec, label: Label | None) -> bool:
    """The priority is about the CPU or work that waits for it, and not about a busy CPU alone (row 25; S25, S27)."""
    return not causes(label).isdisjoint(("cpu_percent", "load_per_core")) and not only_busy(spec, label)


def queries_slow(_spec: PipelineSpec, label: Label | None) -> bool:
    """The priority is about latency above its SLO (row 25; S26)."""
    return "query_latency_ms" in causes(label)


def disk_fills(_spec: PipelineSpec, label: Label | None) -> bool:
    """The priority is about storage that is full or will be (rows 28 and 29; S27)."""
    return "storage_used_gb" in causes(label)


def disk_alone(_spec: PipelineSpec, label: Label | None) -> bool:
    """Storage is all that the priority is about: more or faster machines give no space (rows 28 and 29; S27)."""
    return causes(label) == {"storage_used_gb"}


def disk_does_not_fill(_spec: PipelineSpec, label: Label | None) -> bool:
    """No rule speaks of storage: nothing has to be given up for space (row 30; S27)."""
    return "storage_used_gb" not in causes(label)


def lag_grows(_spec: PipelineSpec, label: Label | None) -> bool:
    """The priority is about a consumer lag that grows (row 6; S14)."""
    return "consumer_lag" in causes(label)


# --- what was measured -----------------------------------------------------------------------------------


def lag_unknown(spec: PipelineSpec, _label: Label | None) -> bool:
    """No message is known to wait: there is no lag to work off (S14)."""
    return not spec.infrastructure_metrics.consumer_lag


def no_spare_partition(spec: PipelineSpec, _label: Label | None) -> bool:
    """As many consumers as partitions: one more would sit idle (row 6; S14)."""
    partitions, replicas = spec.source.partitions, spec.infrastructure_metrics.replicas
    return partitions is not None and replicas is not None and replicas >= partitions


def spare_partitions(spec: PipelineSpec, _label: Label | None) -> bool:
    """Fewer consumers than partitions: further partitions would have no consumer (near miss of row 6; S14)."""
    partitions, replicas = spec.source.partitions, spec.infrastructure_metrics.replicas
    return partitions is not None and replicas is not None and replicas < partitions


def lag_on_full_partitions(spec: PipelineSpec, label: Label | None) -> bool:
    """The lag grows and each partition has its consumer (row 6; S14)."""
    return lag_grows(spec, label) and no_spare_partition(spec, label)


def lag_beside_spare_partitions(spec: PipelineSpec, label: Label | None) -> bool:
    """The lag grows and some partitions share a consumer (near miss of row 6; S14)."""
    return lag_grows(spec, label) and spare_partitions(spec, label)


def users_unharmed(spec: PipelineSpec, _label: Label | None) -> bool:
    """No request fails and latency is within its SLO: nothing has to be taken from users (S26)."""
    return spec.infrastructure_metrics.error_rate_percent == 0 and within_slo(spec, _label)


def within_slo(spec: PipelineSpec, _label: Label | None) -> bool:
    """Latency is known and within its SLO: no query is slower than was promised (S26)."""
    latency, slo = spec.infrastructure_metrics.query_latency_ms, spec.infrastructure_metrics.latency_slo_ms
    return latency is not None and slo is not None and latency <= slo


def memory_has_room(spec: PipelineSpec, label: Label | None) -> bool:
    """Memory is known to have room, and nothing was killed for lack of it (row 25; the figure is ours)."""
    memory = spec.infrastructure_metrics.memory_percent
    return memory is not None and memory < ROOM_BELOW_PERCENT and not memory_scarce(spec, label)


def cpu_has_room(spec: PipelineSpec, label: Label | None) -> bool:
    """CPU is known to have room, and no work waits for it (row 27; the figure is ours)."""
    cpu = spec.infrastructure_metrics.cpu_percent
    return cpu is not None and cpu < ROOM_BELOW_PERCENT and not cpu_scarce(spec, label)


def idle(spec: PipelineSpec, label: Label | None) -> bool:
    """NORMAL, CPU and memory nearly idle, and not yet at the fewest replicas (row 32; S30)."""
    used = _use(spec)
    return calm(spec, label) and len(used) == 2 and max(used) < IDLE_BELOW_PERCENT and not at_fewest(spec, label)


def in_use(spec: PipelineSpec, _label: Label | None) -> bool:
    """CPU or memory is half used or more: taking machines away fills the others (row 25; the figure is ours)."""
    return any(value >= HALF_PERCENT for value in _use(spec))


def at_fewest(spec: PipelineSpec, _label: Label | None) -> bool:
    """There is one replica, or no more than the fewest allowed (S30)."""
    replicas, fewest = spec.infrastructure_metrics.replicas, spec.infrastructure_metrics.min_replicas
    return replicas is not None and replicas <= (fewest or 1)


def disk_has_room(spec: PipelineSpec, label: Label | None) -> bool:
    """Storage is known to have room, and no rule speaks of it (S27)."""
    used, total = spec.infrastructure_metrics.storage_used_gb, spec.infrastructure_metrics.storage_total_gb
    if used is None or total is None or disk_fills(spec, label):
        return False
    return used / total * 100 < DISK_ROOM_BELOW_PERCENT


def disk_flat(spec: PipelineSpec, label: Label | None) -> bool:
    """Storage, however full, is not filled within weeks by the growth told (row 30; S27)."""
    metrics = spec.infrastructure_metrics
    used, total, growth = metrics.storage_used_gb, metrics.storage_total_gb, metrics.storage_growth_gb_per_day
    if used is None or total is None or growth is None or disk_fills(spec, label):
        return False
    return total - used >= growth * DISK_DAYS


def swings(spec: PipelineSpec, _label: Label | None) -> bool:
    """CPU or memory goes up and down around one value, not far below what is scarce (row 31; S29 to S32)."""
    return bool(_swinging(spec))


def swings_only(spec: PipelineSpec, label: Label | None) -> bool:
    """All that the priority is about swings (row 31; S29 to S32)."""
    about = causes(label)
    return bool(about) and about <= _swinging(spec)


def swings_at_ease(spec: PipelineSpec, label: Label | None) -> bool:
    """CPU or memory swings, and no rule asks for more than that (row 31; S29 to S32)."""
    return swings(spec, label) and (calm(spec, label) or swings_only(spec, label))


def touched_once(_spec: PipelineSpec, label: Label | None) -> bool:
    """A reading is just above its threshold or not yet often enough above it to count (row 34; S29, S31)."""
    return label is not None and any(rule.rule in ("within_tolerance", "not_yet", "held") for rule in label.rules)


def stays(spec: PipelineSpec, label: Label | None) -> bool:
    """HIGH or CRITICAL with readings before this one that do not swing: further ones tell nothing new (row 31; S31)."""
    return pressing(spec, label) and len(spec.infrastructure_metrics.history) >= SWING_READINGS and not _swinging(spec)


def label_is_known(spec: PipelineSpec, label: Label | None) -> bool:
    """No metric is missing that the priority needs: another one would change nothing that is decided (ours)."""
    return not unmeasured(spec, label)


def _use(spec: PipelineSpec) -> list[float]:
    """CPU and memory, as far as they are known."""
    return [value for name in _USE if (value := getattr(spec.infrastructure_metrics, name)) is not None]


def _swinging(spec: PipelineSpec) -> set[str]:
    """Which of CPU and memory swing."""
    metrics = spec.infrastructure_metrics
    found = set()
    for name in _USE:
        readings = [getattr(one, name) for one in (*metrics.history[-SERIES:], metrics)]
        if _swing([value for value in readings if value is not None]):
            found.add(name)
    return found


def _swing(values: Sequence[float]) -> bool:
    """Whether most steps turn back, by more than jitter, where capacity is worth a thought."""
    if len(values) < SWING_READINGS or max(values) < ROOM_BELOW_PERCENT:
        return False
    steps = [after - before for before, after in pairwise(values)]
    turns = sum(one * other < 0 for one, other in pairwise(steps))
    wide = sorted(abs(step) for step in steps)[len(steps) // 2] > SWING_POINTS
    return wide and turns >= SWING_SHARE * (len(steps) - 1)


PREDICATES: dict[str, Predicate] = {
    predicate.__name__: predicate
    for predicate in (
        calm,
        pressing,
        critical,
        not_critical,
        unmeasured,
        only_busy,
        requests_fail,
        processes_killed,
        memory_scarce,
        cpu_scarce,
        queries_slow,
        disk_fills,
        disk_alone,
        disk_does_not_fill,
        lag_grows,
        lag_unknown,
        no_spare_partition,
        spare_partitions,
        lag_on_full_partitions,
        lag_beside_spare_partitions,
        users_unharmed,
        within_slo,
        memory_has_room,
        cpu_has_room,
        idle,
        in_use,
        at_fewest,
        disk_has_room,
        disk_flat,
        swings_at_ease,
        touched_once,
        stays,
        label_is_known,
    )
}
