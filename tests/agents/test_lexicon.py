"""Which concepts a text mentions: inflections and hyphens count, negated words do not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.lexicon import advised, lexicon, mention, phrases


@pytest.mark.parametrize(
    ("text", "concept", "found"),
    [
        ("Put Kafka in front.", "kafka", "kafka"),
        ("KAFKA", "kafka", "kafka"),
        ("Use a Kafka-based log", "kafka", "kafka"),
        ("The kafkaesque queue", "kafka", None),
        ("Paginate the calls", "pagination", "paginate"),
        ("Use pagination", "pagination", "pagination"),
        ("Set up right-sizing", "rightsize", "right sizing"),
        ("Honour the rate limits", "rate_limit", "rate limits"),
        ("Back off on 429", "rate_limit", "back off"),
        ("On HTTP 429 wait", "rate_limit", "429"),
        ("error 4290", "rate_limit", None),
        ("Enable Change Data   Capture", "cdc", "change data   capture"),
        ("", "kafka", None),
        ("nothing of the sort", "kafka", None),
    ],
)
def test_what_counts_as_a_mention(text: str, concept: str, found: str | None) -> None:
    assert mention(text, concept) == found


@pytest.mark.parametrize(
    "text",
    [
        "Do not use Kafka",
        "Don't use Kafka",
        "Don\u2019t use Kafka",
        "You should not add Kafka here",
        "Never put Kafka in between",
        "Avoid Kafka",
        "Avoid adding a Kafka cluster",
        "No Kafka is needed",
        "This works without Kafka",
        "Poll the API instead of Kafka",
        "Poll the API rather than running Kafka",
        "It doesn't need Kafka",
        "AVOID KAFKA",
    ],
)
def test_a_negated_phrase_is_no_mention(text: str) -> None:
    assert mention(text, "kafka") is None


@pytest.mark.parametrize(
    "text",
    [
        "There is no webhook. Use Kafka",
        "There is no webhook; use Kafka",
        "Do not poll\nUse Kafka",
        "Not polling but, as the devices send far too often, Kafka",
        "Do not use Kafka in tests. Use Kafka in production",
        "Use Kafka, never poll",
    ],
)
def test_a_negation_elsewhere_does_not_reach_the_phrase(text: str) -> None:
    assert mention(text, "kafka") == "kafka"


def test_a_phrase_that_itself_negates_is_a_mention() -> None:
    assert mention("Do not publish the table", "block_publish") == "do not publish"


def test_an_unknown_concept_is_an_error_and_not_an_absence() -> None:
    with pytest.raises(KeyError):
        mention("anything", "teleportation")


@pytest.mark.parametrize("concept", lexicon())
def test_each_phrase_of_a_concept_is_found_as_written(concept: str) -> None:
    for phrase in phrases()[concept]:
        assert mention(f"First, {phrase.replace('*', '')}.", concept), phrase


@given(text=st.text(max_size=100))
def test_no_text_breaks_the_reader(text: str) -> None:
    for concept in ("kafka", "cursor"):
        assert mention(text, concept) is None or mention(text, concept)


# --- what is advised -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "Kafka is overkill here",
        "A Kafka cluster costs more than it brings",
        "Kafka would not help",
        "Kafka isn't needed",
        "A pull is cheaper than Kafka",
        "Prefer a scheduled pull over Kafka",
        "The volume is too small for Kafka",
        "Replace Kafka with a daily pull",
        "Switch from Kafka to a daily pull",
        "Small volumes rule out Kafka",
        "Neither Flink nor Kafka",
        "Measure the lag before adding Kafka",
        "Add Kafka if the volume grows",
        "When the volume grows, add Kafka",
    ],
)
def test_what_is_set_aside_or_put_under_a_condition_is_mentioned_but_not_advised(text: str) -> None:
    assert advised(text, "kafka") is None


@pytest.mark.parametrize(
    "text",
    [
        "Put Kafka in front",
        "Use Kafka because polling is too slow",
        "Use Kafka, which does not lose events",
        "Use Kafka and never poll",
        "Replace polling with Kafka",
        "Kafka is needed: polling is not enough",
        "If it fails, retry. Use Kafka",
        "Polling is overkill; use Kafka",
    ],
)
def test_what_is_advised(text: str) -> None:
    assert advised(text, "kafka") == "kafka"


@given(text=st.text(alphabet=st.sampled_from("kafka not if , . is overkill than \n"), max_size=60))
def test_what_is_advised_is_mentioned(text: str) -> None:
    assert advised(text, "kafka") is None or mention(text, "kafka")
