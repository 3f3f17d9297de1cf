"""How much of a virtual machine's processor time its hypervisor gave to others: pure."""

from __future__ import annotations

from typing import Any


def stolen_share(before: Any, after: Any) -> float | None:
    """Share of the machine's time between two `psutil.cpu_times()` that its hypervisor kept; None if it is not told."""
    if not hasattr(after, "steal"):
        return None
    # The time of guests is in that of the user already.
    passed_s = {name: getattr(after, name) - getattr(before, name) for name in after._fields if "guest" not in name}
    total_s = sum(passed_s.values())
    return float(max(0.0, passed_s["steal"] / total_s)) if total_s > 0 else None
