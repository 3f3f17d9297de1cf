"""Amounts with units: one canonical spelling for one amount, and nonsense refused with the field's name."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agents.facts.spec import PipelineSpec
from agents.facts.units import bytes_per_hour, canonical_duration, canonical_rate, rate, seconds
from common.located import describe


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10GB/day", "10 GB/day"),
        ("10240 MB/day", "10 GB/day"),
        ("10 GiB per day", "10 GB/day"),
        ("10gb / d", "10 GB/day"),
        ("1GB/h", "24 GB/day"),
        ("4 GiB/h", "96 GB/day"),
        ("70 GB/week", "10 GB/day"),
        ("1 KB/s", "84.375 MB/day"),
        ("1024 PB/day", "1024 PB/day"),
        ("1 B/day", "1 B/day"),
        ("0 B/s", "0 B/day"),
        ("1,024 MB/day", "1 GB/day"),
        ("1M events/s", "1M events/s"),
        ("1000k events/s", "1M events/s"),
        ("1 event/s", "1 events/s"),
        ("60 requests/min", "1 requests/s"),
        ("100 requests/min", "100 requests/min"),
        ("1 file/week", "1 files/week"),
    ],
)
def test_a_rate_has_one_spelling(text: str, canonical: str) -> None:
    assert canonical_rate(text) == canonical


@pytest.mark.parametrize(
    ("text", "canonical", "in_s"),
    [
        ("500 ms", "500 ms", 0.5),
        ("0.5s", "500 ms", 0.5),
        ("30 s", "30 s", 30),
        ("90 sec", "1.5 min", 90),
        ("60 minutes", "1 h", 3600),
        ("24 hrs", "1 day", 86400),
        ("1 week", "7 day", 604800),
        ("1,000 ms", "1 s", 1),
        ("0 h", "0 ms", 0),
    ],
)
def test_a_duration_has_one_spelling(text: str, canonical: str, in_s: float) -> None:
    assert canonical_duration(text) == canonical
    assert seconds(text) == in_s


def test_ten_gigabytes_a_day_are_10240_megabytes_a_day() -> None:
    assert rate("10GB/day") == rate("10240 MB/day")
    assert bytes_per_hour("24 GB/day") == 1024**3
    assert bytes_per_hour("1M events/s") is None
    assert bytes_per_hour(None) is None


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("1048575 B/day", "1 MB/day"),
        ("86399999.5 events/day", "1K events/s"),
        ("8365.095 events/s", "501.905K events/min"),
    ],
)
def test_rounding_that_fills_the_next_unit_still_gives_one_spelling(text: str, canonical: str) -> None:
    assert canonical_rate(text) == canonical_rate(canonical) == canonical


def test_a_duration_that_rounds_up_to_the_next_unit_is_spelled_in_it() -> None:
    assert canonical_duration("59.9999999 s") == "1 min"


@pytest.mark.parametrize("text", ["999999999999999 PB/s", "0.000000000000001 B/week"])
def test_an_amount_that_could_not_be_read_back_is_refused(text: str) -> None:
    assert refusal(volume=text) == f"a.yaml: source.volume: found {text!r}, which is too large or too small"


# --- nonsense --------------------------------------------------------------------------------------------

NOT_A_RATE = (
    "10GB",
    "GB/day",
    "10/day",
    "ten GB/day",
    "-10 GB/day",
    "1e3 GB/day",
    "10 GB/fortnight",
    "10 parsecs/day",
    "10 GB/day/day",
    "10 Gb/s",
    "10 GB/0",
    "1,00 GB/day",
    "٣ GB/day",
    "10 GB/day; rm -rf",
    "9" * 40 + " GB/day",
)
NOT_A_DURATION = ("15", "min", "-1 h", "15 parsecs", "1 h 30 min", "NaN s", "inf s", "1e3 s", "fast")


def refusal(**source: Any) -> str:
    with pytest.raises(ValidationError) as refused:
        PipelineSpec.model_validate({"id": "p", "source": {"type": "x", **source}})
    return describe(refused.value, PipelineSpec, "a.yaml")


@pytest.mark.parametrize("field", ["volume", "rate_limit"])
@pytest.mark.parametrize("text", NOT_A_RATE)
def test_what_is_no_rate_is_refused_with_the_fields_name_and_what_is_allowed(field: str, text: str) -> None:
    message = refusal(**{field: text})
    assert message.startswith(f"a.yaml: source.{field}: found ")
    assert "allowed: an amount per time such as '10GB/day'" in message
    assert "\n" not in message


@pytest.mark.parametrize("text", NOT_A_DURATION)
def test_what_is_no_duration_is_refused_with_the_fields_name_and_what_is_allowed(text: str) -> None:
    message = refusal(latency_need=text)
    assert message.startswith("a.yaml: source.latency_need: found ")
    assert "allowed: a time with its unit such as '500 ms'" in message


def test_bits_are_hinted_at() -> None:
    assert "may mean bits" in refusal(volume="10 Gb/s")


def test_text_that_is_too_long_for_an_amount_is_refused_before_it_is_read() -> None:
    assert "at most 60 characters" in refusal(volume="1" * 10**6)


# --- properties ------------------------------------------------------------------------------------------

AMOUNTS = st.integers(0, 10**9) | st.fractions(0, 10**6, max_denominator=1).map(int) | st.decimals(0, 10**6, places=3)
BYTES = ["B", "KB", "MB", "GB", "TB", "PB", "KiB", "MiB", "GiB", "kb", "gib"]
COUNTS = ["event", "events", "k rows", "M messages", "requests", "K calls", "file", "readings"]
PERIODS = ["s", "sec", "min", "minutes", "h", "hour", "d", "day", "week", "weeks"]
RATES = st.builds(
    "{} {}{}{}".format,
    AMOUNTS,
    st.sampled_from(BYTES + COUNTS),
    st.sampled_from(["/", " / ", " per "]),
    st.sampled_from(PERIODS),
)
DURATIONS = st.builds("{}{}{}".format, AMOUNTS, st.sampled_from(["", " "]), st.sampled_from(["ms", *PERIODS]))


@given(RATES)
def test_a_canonical_rate_stays_as_it_is(text: str) -> None:
    once = canonical_rate(text)
    assert canonical_rate(once) == once


@given(DURATIONS)
def test_a_canonical_duration_stays_as_it_is(text: str) -> None:
    once = canonical_duration(text)
    assert canonical_duration(once) == once


@given(RATES)
def test_a_canonical_rate_is_the_same_amount_to_six_digits(text: str) -> None:
    before, after = rate(text), rate(canonical_rate(text))
    assert before.what == after.what
    assert abs(before.per_s - after.per_s) <= before.per_s * Fraction(1, 10**5)


@given(DURATIONS)
def test_a_canonical_duration_is_the_same_time_to_six_digits(text: str) -> None:
    assert seconds(canonical_duration(text)) == pytest.approx(seconds(text), rel=1e-5)


@given(
    amount=st.integers(1, 10**6),
    unit=st.integers(0, 4),
    period=st.sampled_from([("s", 60, "min"), ("min", 60, "h"), ("h", 24, "day")]),
)
def test_other_units_are_the_same_spelling(amount: int, unit: int, period: tuple[str, int, str]) -> None:
    larger, smaller = "KMGTP"[unit], ("B", "KB", "MB", "GB", "TB")[unit]
    short, times, long = period
    assert canonical_rate(f"{amount} {larger}B/{short}") == canonical_rate(f"{amount * 1024} {smaller}/{short}")
    assert canonical_rate(f"{amount} MB/{short}") == canonical_rate(f"{amount * times} MB/{long}")
    assert canonical_rate(f"{amount} events/{short}") == canonical_rate(f"{amount * times} events/{long}")
    assert canonical_duration(f"{amount} {long}") == canonical_duration(f"{amount * times} {short}")


@given(text=st.text(max_size=60) | st.from_regex(r"[0-9.,]{1,10} ?[KMGTPi]{0,2}[bB]? ?/ ?[a-z]{1,5}", fullmatch=True))
def test_any_text_is_a_rate_or_refused(text: str) -> None:
    try:
        found = canonical_rate(text)
    except ValueError:
        return
    assert canonical_rate(found) == found


@given(volume=RATES.filter(lambda text: len(text) <= 60), need=DURATIONS)
def test_a_pipeline_written_out_and_read_back_is_the_same(volume: str, need: str) -> None:
    spec = PipelineSpec.model_validate({"id": "p", "source": {"type": "x", "volume": volume, "latency_need": need}})
    assert PipelineSpec.model_validate(spec.model_dump(mode="json")) == spec
