"""Schedules: counts and moments computed by hand, spread within what theory allows, the same on every worker."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from common.console import BadInput
from load_tests.arrivals import (
    MOST_ARRIVALS,
    Arrivals,
    ByRate,
    Closed,
    Constant,
    Gamma,
    OpenLoop,
    Poisson,
    Ramp,
    Spike,
    Trace,
    schedule,
    share,
)
from load_tests.trace_file import read_trace

ROOT = Path(__file__).resolve().parents[2]
S = 1_000_000_000

rates = st.floats(0.05, 300)
durations = st.floats(0.1, 30)
kinds: st.SearchStrategy[ByRate] = st.one_of(
    st.builds(Constant, rate_per_s=rates),
    st.builds(Poisson, rate_per_s=rates),
    st.builds(Gamma, rate_per_s=rates, burstiness=st.floats(0.01, 50)),
    st.builds(Ramp, from_per_s=rates, to_per_s=st.floats(0, 300), poisson=st.booleans()),
    st.builds(
        Spike,
        rate_per_s=rates,
        spike_per_s=rates,
        at_s=st.floats(0, 0.09),
        for_s=st.floats(0.01, 40),
        poisson=st.booleans(),
    ),
)


def counts(arrivals: OpenLoop, duration_s: float, edges_s: Sequence[float]) -> list[int]:
    """How many requests are due between each two edges."""
    return [int(n) for n in np.histogram(schedule(arrivals, duration_s, 1) / S, edges_s)[0]]


@given(kinds, durations, st.integers(0, 2**53))
def test_every_schedule_is_sorted_and_inside_the_test(arrivals: ByRate, duration_s: float, seed: int) -> None:
    at_ns = schedule(arrivals, duration_s, seed)
    assert at_ns.dtype == np.int64
    assert (np.diff(at_ns) >= 0).all()
    assert ((at_ns >= 0) & (at_ns < round(duration_s * S))).all()


@given(kinds, durations, st.integers(0, 2**53))
def test_one_seed_gives_one_schedule(arrivals: ByRate, duration_s: float, seed: int) -> None:
    assert schedule(arrivals, duration_s, seed).tobytes() == schedule(arrivals, duration_s, seed).tobytes()


@given(st.builds(Gamma, rate_per_s=rates, burstiness=st.floats(0.01, 50)), durations, durations)
def test_a_longer_test_begins_with_the_shorter_one(arrivals: Gamma, one_s: float, other_s: float) -> None:
    short, long = sorted((schedule(arrivals, one_s, 3), schedule(arrivals, other_s, 3)), key=len)
    assert long[: len(short)].tolist() == short.tolist()


@given(st.integers(0, 200), st.integers(1, 9))
def test_shares_hold_every_place_once(n: int, workers: int) -> None:
    shares = [share(n, worker, workers) for worker in range(workers)]
    assert sorted(place for one in shares for place in one) == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("worker", [-1, 2])
def test_a_worker_that_is_not_there_has_no_share(worker: int) -> None:
    with pytest.raises(ValueError, match="numbered from 0"):
        share(10, worker, 2)


@pytest.mark.parametrize(
    ("rate_per_s", "duration_s", "n"),
    # 0.7 * 10 = 7 and 0.1 * 30 = 3, though neither product is exact in floats: the one at the end itself is not sent.
    [(4, 1, 4), (4, 1.01, 5), (3, 1, 3), (0.7, 10, 7), (0.1, 30, 3), (0.01, 1, 1), (50, 60, 3000)],
)
def test_constant_sends_the_kth_at_k_over_rate(rate_per_s: float, duration_s: float, n: int) -> None:
    at_ns = schedule(Constant(rate_per_s=rate_per_s), duration_s, 0)
    assert at_ns.tolist() == [round(k / rate_per_s * S) for k in range(n)]


def test_poisson_gaps_are_exponential() -> None:
    """20,000 expected, with a standard deviation of 141; 1 is the coefficient of variation of exponential gaps."""
    gaps = np.diff(schedule(Poisson(rate_per_s=100), 200, 7)) / S
    n = len(gaps)
    assert abs(n - 20_000) < 4 * 141
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=4 / math.sqrt(n))
    # One share per gap, of those longer than x: exp(-rate x). Even or normal gaps fail here, with the right mean.
    for x in (0.001, 0.01, 0.03):
        p = math.exp(-100 * x)
        assert (gaps > x).mean() == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / n))


@pytest.mark.parametrize("burstiness", [0.1, 0.5, 4.0])
def test_gamma_gaps_have_the_rate_and_the_burstiness(burstiness: float) -> None:
    """The coefficient of variation is 1 / sqrt(shape); Poisson's would be 1 for all three."""
    gaps = np.diff(schedule(Gamma(rate_per_s=100, burstiness=burstiness), 200, 7)) / S
    n, cv = len(gaps), 1 / math.sqrt(burstiness)
    assert gaps.mean() == pytest.approx(0.01, abs=4 * 0.01 * cv / math.sqrt(n))
    # Variance of a sample variance, by the fourth moment of the gamma distribution: kurtosis 3 + 6 / shape.
    cv_error = cv / 2 * math.sqrt((2 + 6 / burstiness) / n) + cv**2 / math.sqrt(n)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, abs=4 * cv_error)


def test_burstiness_one_is_poisson() -> None:
    assert np.array_equal(schedule(Gamma(rate_per_s=20, burstiness=1), 30, 5), schedule(Poisson(rate_per_s=20), 30, 5))


def test_even_ramp_computed_by_hand() -> None:
    """From 0 to 4 a second in 2 s: t^2 requests by t, so the k-th is due at sqrt(k); four in all."""
    at_s = schedule(Ramp(from_per_s=0, to_per_s=4, poisson=False), 2, 0) / S
    assert at_s.tolist() == pytest.approx([0, 1, math.sqrt(2), math.sqrt(3)], abs=1e-9)


def test_falling_ramp_is_the_rising_one_mirrored() -> None:
    falling = counts(Ramp(from_per_s=100, to_per_s=0, poisson=False), 10, [0, 2.5, 5, 7.5, 10])
    assert falling == [219, 156, 94, 31]  # of 500: 7/16, 5/16, 3/16, 1/16; the one at the very beginning is a whole one


def test_flat_ramp_is_constant() -> None:
    assert np.array_equal(
        schedule(Ramp(from_per_s=5, to_per_s=5, poisson=False), 10, 0), schedule(Constant(rate_per_s=5), 10, 0)
    )


def test_even_spike_computed_by_hand() -> None:
    """1 a second, but 4 a second for the second that begins at 2."""
    spike = Spike(rate_per_s=1, spike_per_s=4, at_s=2, for_s=1, poisson=False)
    assert (schedule(spike, 5, 0) / S).tolist() == [0, 1, 2, 2.25, 2.5, 2.75, 3, 4]


def test_a_spike_that_outlasts_the_test_is_cut() -> None:
    spike = Spike(rate_per_s=1, spike_per_s=4, at_s=2, for_s=60, poisson=False)
    assert (schedule(spike, 3, 0) / S).tolist() == [0, 1, 2, 2.25, 2.5, 2.75]


@pytest.mark.parametrize(
    ("arrivals", "expected"),
    [
        (Ramp(from_per_s=0, to_per_s=200), [200, 600, 1000, 1400, 1800]),
        (Ramp(from_per_s=200, to_per_s=0), [1800, 1400, 1000, 600, 200]),
        (Spike(rate_per_s=50, spike_per_s=400, at_s=50, for_s=25), [1250, 1250, 10_000, 1250, 1250]),
    ],
)
def test_random_ramp_and_spike_bring_what_the_rate_says(arrivals: ByRate, expected: list[int]) -> None:
    """A Poisson count's standard deviation is the square root of what is expected."""
    edges_s = [0, 25, 50, 75, 100, 125] if isinstance(arrivals, Spike) else [0, 10, 20, 30, 40, 50]
    found = counts(arrivals, edges_s[-1], edges_s)
    assert all(abs(n - m) < 4 * math.sqrt(m) for n, m in zip(found, expected, strict=True)), found


@pytest.mark.slow
def test_poisson_counts_over_many_seeds_have_mean_and_variance_of_poisson() -> None:
    """Per 10 s at 5 a second: 50 and 50, over 2000 seeds; gaps stretched to a fixed count would have variance 0."""
    n = np.array([len(schedule(Poisson(rate_per_s=5), 10, seed)) for seed in range(2000)])
    assert n.mean() == pytest.approx(50, abs=4 * math.sqrt(50 / 2000))
    assert n.var() == pytest.approx(50, abs=4 * 50 * math.sqrt(2 / 2000))


def test_seeds_differ() -> None:
    assert not np.array_equal(schedule(Poisson(rate_per_s=9), 9, 1), schedule(Poisson(rate_per_s=9), 9, 2))


def test_schedule_is_the_same_bytes_as_ever() -> None:
    """A change here makes every stored run incomparable with new ones of the same seed."""
    some: list[OpenLoop] = [
        Poisson(rate_per_s=50),
        Gamma(rate_per_s=50, burstiness=0.5),
        Ramp(from_per_s=1, to_per_s=9),
        Spike(rate_per_s=5, spike_per_s=50, at_s=5, for_s=2),
    ]
    digest = hashlib.sha256(b"".join(schedule(one, 20, 42).astype("<i8").tobytes() for one in some)).hexdigest()
    assert digest[:16] == "83c29627ceff9325"


def test_too_many_requests_are_refused_before_they_fill_the_memory() -> None:
    with pytest.raises(BadInput, match=r"8\.64e\+08 requests in 86400 s; allowed: 1e\+07"):
        schedule(Poisson(rate_per_s=10_000), 86_400, 0)
    assert MOST_ARRIVALS == 1e7


def test_a_spike_after_the_end_is_refused() -> None:
    with pytest.raises(BadInput, match="begins at 60 s; duration_s is 60"):
        schedule(Spike(rate_per_s=1, spike_per_s=2, at_s=60, for_s=1), 60, 0)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"kind": "poisson"}, "poisson.rate_per_s"),
        ({"kind": "poisson", "rate_per_s": 0}, "poisson.rate_per_s"),
        ({"kind": "poisson", "rate_per_s": float("nan")}, "poisson.rate_per_s"),
        ({"kind": "constant", "rate_per_s": "5"}, "constant.rate_per_s"),
        ({"kind": "gamma", "rate_per_s": 5, "burstiness": 0}, "gamma.burstiness"),
        ({"kind": "ramp", "from_per_s": 0, "to_per_s": 0}, "both 0"),
        ({"kind": "closed", "users": 0}, "closed.users"),
        ({"kind": "poisson", "rate_per_s": 5, "users": 3}, "poisson.users"),
        ({"kind": "bursty"}, "bursty"),
        ({"rate_per_s": 5}, "kind"),
    ],
)
def test_wrong_arrivals_are_refused_by_field(data: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError) as raised:
        TypeAdapter[object](Arrivals).validate_python(data)
    assert told in str(raised.value)


def test_kind_chooses_the_model() -> None:
    read = TypeAdapter[object](Arrivals).validate_python
    assert read({"kind": "closed", "users": 4}) == Closed(users=4)
    assert read({"kind": "trace", "file": "a.csv"}) == Trace(file="a.csv")


@pytest.mark.slow
def test_reading_a_profile_does_not_import_numpy() -> None:
    """Locust's own processes read profiles and stay small."""
    code = "import sys, load_tests.arrivals; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# --- traces ---------------------------------------------------------------------------------------------


def test_a_trace_is_sent_as_it_was_recorded_up_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("at_s,model\n0.5,x\n0.5,y\n1.25,z\n2,w\n")
    assert schedule(Trace(file=str(path)), 2, 0).tolist() == [S // 2, S // 2, S * 5 // 4]


def test_csv_and_jsonl_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfat_s,noted\r\n0,\r\n\r\n0.125,b\r\n")
    (tmp_path / "t.jsonl").write_text('{"at_s": 0}\n\n{"at_s": 0.125, "noted": "a\u2028b"}')
    one, other = (schedule(Trace(file=str(tmp_path / name)), 9, 0).tolist() for name in ("t.csv", "t.jsonl"))
    assert one == other == [0, S // 8]


def test_a_trace_with_no_request_in_time_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("at_s\n1700000000\n")
    with pytest.raises(BadInput, match=r"t\.csv:2: at_s: found '1700000000'; allowed: seconds after the start"):
        schedule(Trace(file=str(path)), 60, 0)
    path.write_text("at_s\n60\n")
    with pytest.raises(BadInput, match=r"the first request is due at 60 s; duration_s is 60"):
        schedule(Trace(file=str(path)), 60, 0)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("t.csv", "at_s\n1\n0.5\n", "t.csv:3: at_s: found 0.5 after 1; sort the file by at_s"),
        ("t.csv", "at_s\n1\nsoon\n", "t.csv:3: at_s: found 'soon'"),
        ("t.csv", "at_s,b\n1,2\n,2\n", "t.csv:3: at_s: is missing"),
        ("t.csv", "at_s\nnan\n", "t.csv:2: at_s: found 'nan'"),
        ("t.csv", "at_s\n-1\n", "t.csv:2: at_s: found '-1'"),
        ("t.csv", "time\n1\n", "t.csv:1: found no column at_s in the header 'time'"),
        ("t.csv", "at_s\n", "t.csv: holds no request"),
        ("t.csv", "", "t.csv:1: found no column at_s"),
        ("t.csv", "at_s\n" + "9" * 5000 + "\n", "t.csv:2: at_s: found"),
        ("t.csv", 'at_s\n"' + "9" * 200_000 + '"\n', "t.csv:2: is not CSV: field larger"),
        ("t.jsonl", '{"at_s": true}', "t.jsonl:1: at_s: found True"),
        ("t.jsonl", '{"at_s": 1}\n{"at_s": 2', "t.jsonl:2: is not JSON"),
        ("t.jsonl", "[1]\n", "t.jsonl:1: found [1]; allowed: an object with at_s"),
        ("t.txt", "1\n", "t.txt: ends in '.txt'; allowed for a trace: .csv, .jsonl"),
    ],
)
def test_a_wrong_trace_is_refused_with_file_and_line(tmp_path: Path, name: str, text: str, told: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(BadInput) as raised:
        schedule(Trace(file=str(path)), 60, 0)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


def test_a_trace_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"gone\.csv: cannot be read \(No such file"):
        schedule(Trace(file=str(tmp_path / "gone.csv")), 60, 0)
    (tmp_path / "t.csv").write_bytes(b"at_s\n\xff\n")
    with pytest.raises(BadInput, match=r"t\.csv: is not UTF-8 text"):
        schedule(Trace(file=str(tmp_path / "t.csv")), 60, 0)


def test_a_trace_may_say_which_request_is_sent(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("request,at_s\n3,0\n0,1\n")
    (tmp_path / "t.jsonl").write_text('{"at_s": 0, "request": 3}\n{"at_s": 1, "request": 0}\n')
    for name in ("t.csv", "t.jsonl"):
        recorded = read_trace(tmp_path / name)
        assert recorded.requests is not None
        assert recorded.requests.tolist() == [3, 0]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["0,3", "1,"], "t.csv:3: request: stands in some lines only"),
        (["0,", "1,3"], "t.csv:3: request: stands in some lines only"),
        (["0,-1"], "t.csv:2: request: found '-1'; allowed: a whole number from 0"),
        (["0,1.5"], "t.csv:2: request: found '1.5'"),
    ],
)
def test_wrong_requests_of_a_trace_are_refused(tmp_path: Path, lines: list[str], told: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["at_s,request", *lines]))
    with pytest.raises(BadInput) as raised:
        read_trace(path)
    assert told in str(raised.value)
