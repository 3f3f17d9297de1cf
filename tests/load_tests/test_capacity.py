"""The capacity search, against steps, lies and queues whose capacity is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from load_tests.capacity import Ask, Probe, SearchLimits, Stop, Verdict, bracket, next_step, search
from tests.load_tests.queue_model import Promise, Queue, capacity_of, measuring

LIMITS = SearchLimits(from_per_s=1.0, least_per_s=0.01, most_per_s=1000.0, duration_s=10.0, longest_s=40.0, probes=8)


def probe(rate: float, verdict: Verdict, **changes: object) -> Probe:
    made = Probe(rate, 10.0, verdict, "so it was", "met" if verdict == "met" else "missed", 100, rate)
    return replace(made, **changes)  # type: ignore[arg-type]


def step_at(capacity: float, full: float | None = None) -> Callable[[Ask], Probe]:
    """An endpoint without noise: it keeps its promise up to `capacity`, and no more than `full` come out."""

    def measure(ask: Ask) -> Probe:
        out = ask.rate_per_s if full is None else min(ask.rate_per_s, full)
        verdict: Verdict = "met" if ask.rate_per_s <= capacity else "missed"
        return probe(ask.rate_per_s, verdict, duration_s=ask.duration_s, throughput_per_s=out)

    return measure


def test_the_bracket_holds_a_known_step_and_is_as_narrow_as_asked() -> None:
    found = search(step_at(7.3, full=8.0), LIMITS)
    assert found.found
    assert found.rate_per_s is not None
    assert found.missed_per_s is not None
    assert found.rate_per_s <= 7.3 < found.missed_per_s <= found.rate_per_s * 1.05 * (1 + 1e-9)
    assert len(found.probes) <= 8


@given(capacity=st.floats(0.05, 900), share=st.floats(0.8, 1.0), guess=st.floats(-2, 2))
@pytest.mark.slow
def test_no_probe_leaves_the_limits_and_verdicts_alone_set_the_bracket(
    capacity: float, share: float, guess: float
) -> None:
    limits = replace(LIMITS, from_per_s=min(max(capacity * 10**guess, 0.01), 1000.0))
    found = search(step_at(capacity, capacity / share), limits)
    assert len(found.probes) <= 8
    assert all(0.01 <= one.rate_per_s <= 1000 and 10 <= one.duration_s <= 40 for one in found.probes)
    assert (found.rate_per_s or 0) <= capacity < (found.missed_per_s or math.inf)


@given(capacity=st.floats(1, 100), guess=st.floats(0.1, 2.0))
def test_eight_probes_are_enough_from_a_guess_between_a_tenth_and_twice(capacity: float, guess: float) -> None:
    found = search(step_at(capacity, capacity * 1.02), replace(LIMITS, from_per_s=capacity * guess))
    assert found.rate_per_s is not None
    assert found.rate_per_s == pytest.approx(capacity, rel=0.06)


def test_an_endpoint_that_never_misses_is_told_as_a_lower_bound() -> None:
    found = search(step_at(math.inf), LIMITS)
    assert (found.rate_per_s, found.missed_per_s, found.found) == (1000.0, None, False)
    assert "highest rate that was to be tried" in found.why


def test_an_endpoint_that_always_misses_has_no_capacity() -> None:
    found = search(step_at(0.0), replace(LIMITS, least_per_s=0.8))
    assert (found.rate_per_s, found.missed_per_s, found.found) == (None, 0.8, False)


def test_a_client_that_gives_out_twice_ends_the_search_and_says_why() -> None:
    def measure(ask: Ask) -> Probe:
        late = ask.rate_per_s > 10
        return probe(ask.rate_per_s, "void" if late else "met", because="sent late")

    found = search(measure, LIMITS)
    assert [one.verdict for one in found.probes] == ["met", "met", "void", "void"]
    assert (found.rate_per_s, found.missed_per_s, found.found) == (4.0, None, False)
    assert "sent late" in found.why


def test_one_disturbed_probe_is_repeated_and_does_not_count() -> None:
    seen = [probe(1.0, "met"), probe(4.0, "void")]
    assert next_step(seen, LIMITS) == Ask(4.0, 10.0)
    assert bracket(seen) == (1.0, None)


def test_an_undecided_end_of_a_narrow_bracket_is_probed_twice_as_long_at_the_same_rate() -> None:
    seen = [probe(10.0, "undecided", leans="met"), probe(10.4, "missed")]
    assert next_step(seen, LIMITS) == Ask(10.0, 20.0)
    longer = [*seen, probe(10.0, "undecided", leans="met", duration_s=40.0)]
    stop = next_step(longer, LIMITS)
    assert isinstance(stop, Stop), "no probe is longer than the longest"
    assert stop.found


def test_the_longer_probe_is_believed_over_the_shorter_at_its_rate() -> None:
    seen = [probe(10.0, "met"), probe(10.4, "undecided"), probe(10.4, "met", duration_s=20.0)]
    assert bracket(seen) == (10.4, None)


def test_of_contradicting_verdicts_the_lower_rate_is_believed() -> None:
    assert bracket([probe(5.0, "met"), probe(9.0, "missed"), probe(12.0, "met")]) == (5.0, 9.0)


def test_an_undecided_end_is_told_as_such() -> None:
    verdicts: dict[bool, Verdict] = {True: "undecided", False: "missed"}
    found = search(lambda ask: probe(ask.rate_per_s, verdicts[ask.rate_per_s <= 5], leans="met"), LIMITS)
    assert [one.rate_per_s for one in found.undecided] == [found.rate_per_s]


def test_a_low_rate_is_probed_until_its_percentile_has_samples() -> None:
    assert next_step([], replace(LIMITS, least_requests=20)) == Ask(1.0, 20.0)
    assert next_step([], replace(LIMITS, least_requests=2000)) == Ask(1.0, 40.0), "but never beyond the longest"


def test_what_comes_out_of_a_full_endpoint_leads_the_search_below_it() -> None:
    step = next_step([probe(100.0, "missed", throughput_per_s=20.0)], LIMITS)
    assert isinstance(step, Ask)
    assert 15 < step.rate_per_s < 20


def test_a_met_probe_whose_throughput_fluctuates_is_no_ceiling() -> None:
    seen = [probe(1.0, "met", throughput_per_s=0.8), probe(4.0, "missed")]
    assert next_step(seen, LIMITS) == Ask(2.0, 10.0)


# --- queues ----------------------------------------------------------------------------------------------

SERVICE = Queue(slots=64, service_s=0.68, ttft_s=0.05)
"""The simulator with --max-running 64 at its own defaults: 0.05 + 63 x 0.01 s, a knee of 94 requests/s."""
PROMISE = Promise(percentile=95, at_most_s=0.3)
SEARCHES = 200


def errors_of(capacity: float, *, even: bool) -> tuple[NDArray[np.float64], list[int]]:
    found, probes = [], []
    for seed in range(SEARCHES):
        guess = SERVICE.knee_per_s * math.exp(np.random.default_rng(seed).uniform(math.log(0.05), math.log(2)))
        limits = SearchLimits(guess, guess / 1000, guess * 1000, 15.0, 60.0, least_requests=59)
        result = search(measuring(SERVICE, PROMISE, seed, even=even), limits)
        found.append((result.rate_per_s or 0.0) / capacity - 1)
        probes.append(len(result.probes))
    return np.array(found), probes


def test_a_queue_serves_what_its_slots_allow() -> None:
    queue = Queue(slots=2, service_s=1.0, ttft_s=0.1)
    # Two slots, four at once: the third and fourth wait for the first two; the fifth comes when all is free.
    assert queue.waits_s(np.array([0.0, 0.0, 0.0, 0.5, 2.5])).tolist() == [0.0, 0.0, 1.0, 0.5, 0.0]


@pytest.mark.slow
def test_of_200_searches_on_random_arrivals_95_percent_are_within_5_percent_in_8_probes() -> None:
    errors, probes = errors_of(capacity_of(SERVICE, PROMISE), even=False)
    assert np.mean(np.abs(errors) <= 0.05) >= 0.95
    assert max(probes) <= 8


@pytest.mark.slow
def test_of_200_searches_on_even_arrivals_95_percent_are_within_5_percent_of_the_knee() -> None:
    errors, probes = errors_of(SERVICE.knee_per_s, even=True)
    assert np.mean(np.abs(errors) <= 0.05) >= 0.95
    assert max(probes) <= 8
