"""From log-probabilities to probabilities, with cases computed by hand."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.asking.endpoint.reply import TokenLogprob
from agents.asking.ways.probabilities import (
    LEAST_LOGPROB,
    LabelLogprob,
    label_logprob,
    logsumexp,
    mass,
    mean,
    normalised,
    span_probability,
    value_spans,
    winner,
    without_prior,
)

NAMES = st.text("abc_", min_size=1, max_size=8)


def tokens(*pieces: tuple[str, float]) -> list[TokenLogprob]:
    return [TokenLogprob(text, math.log(probability), len(text.encode())) for text, probability in pieces]


# --- where values stand ----------------------------------------------------------------------------------


def test_each_value_is_found_with_its_key_and_its_closing_quote() -> None:
    text = '{\n"mode" : "batch",\n "actions":["wash", "mend"]}'
    spans = list(value_spans(text))
    assert [(key, value) for key, value, _, _ in spans] == [("mode", "batch"), ("actions", "wash"), ("actions", "mend")]
    assert [text[first:last] for _, _, first, last in spans] == ['batch"', 'wash"', 'mend"']


def test_what_stands_in_a_string_is_no_structure() -> None:
    text = '{"note": "{\\"mode\\": \\"batch\\", [", "mode": "stream"}'
    assert [(key, value) for key, value, _, _ in value_spans(text)][1] == ("mode", "stream")


@given(st.dictionaries(NAMES, NAMES | st.lists(NAMES, max_size=3), max_size=4))
def test_the_spans_are_the_values_in_order(answer: dict[str, str | list[str]]) -> None:
    values = [(key, one) for key, found in answer.items() for one in (found if isinstance(found, list) else [found])]
    for indent in (None, 2):
        assert [(key, value) for key, value, _, _ in value_spans(json.dumps(answer, indent=indent))] == values


# --- how likely they are ---------------------------------------------------------------------------------


def test_other_spellings_of_the_same_value_count_and_other_values_do_not() -> None:
    # 'b' was taken; 'ba' and 'batch"' would have gone on alike, 'batch_' and 'cdc' not.
    top = tuple(
        (text, math.log(p)) for text, p in (("b", 0.4), ("ba", 0.2), ('batch"', 0.1), ("batch_", 0.2), ("c", 0.1))
    )
    spelled = [*tokens(('{"m":"', 1.0)), TokenLogprob("b", math.log(0.4), 1, top), *tokens(('atch"', 0.9), ("}", 1.0))]
    text = '{"m":"batch"}'
    first = text.index("batch")
    assert span_probability(spelled, text, first, first + 6, ["batch", "cdc"]) == pytest.approx(0.7 * 0.9)
    # What is begun by a rival too counts for neither: 'ba' may go on to batch_load.
    assert span_probability(spelled, text, first, first + 6, ["batch", "batch_load"]) == pytest.approx(0.5 * 0.9)


def test_a_shorter_token_that_may_go_on_to_another_value_adds_nothing() -> None:
    top = (('batch"', math.log(0.5)), ("batch", math.log(0.5)))
    spelled = [*tokens(('{"m":"', 1.0)), TokenLogprob('batch"', math.log(0.5), 6, top), *tokens(("}", 1.0))]
    text = '{"m":"batch"}'
    assert span_probability(spelled, text, 6, 12, ["batch", "batch_load"]) == pytest.approx(0.5)


def test_a_token_that_closes_the_value_and_goes_on_otherwise_spells_it_too() -> None:
    # '"]' was taken and '",' would have begun a further value: the value itself is the same.
    top = (('"]', math.log(0.6)), ('",', math.log(0.3)), ("_x", math.log(0.1)))
    spelled = [*tokens(('["', 1.0), ("wash", 0.5)), TokenLogprob('"]', math.log(0.6), 2, top)]
    assert span_probability(spelled, '["wash"]', 2, 7) == pytest.approx(0.5 * 0.9)


def test_a_values_probability_is_the_product_over_its_tokens() -> None:
    text = '{"mode":"batch_load"}'
    spelled = tokens(('{"mode":"', 0.9), ("batch", 0.5), ("_load", 0.4), ('"}', 0.8))
    [(_, _, first, last)] = value_spans(text)
    assert span_probability(spelled, text, first, last) == pytest.approx(0.5 * 0.4 * 0.8)


def test_a_token_that_reaches_into_a_value_counts_whole() -> None:
    text = '{"mode":"batch"}'
    spelled = tokens(('{"mode":', 0.9), ('"bat', 0.5), ('ch"}', 0.5))
    assert span_probability(spelled, text, text.index("batch"), text.index('"}') + 1) == pytest.approx(0.25)


def test_positions_are_those_of_bytes_where_characters_have_several() -> None:
    text = '{"é":"batch"}'
    spelled = [
        TokenLogprob('{"', math.log(0.9), 2),
        TokenLogprob("\ufffd", math.log(0.9), 1),
        TokenLogprob("\ufffd", math.log(0.9), 1),
        *tokens(('":"', 0.9), ("batch", 0.5), ('"', 0.7), ("}", 0.9)),
    ]
    [(_, _, first, last)] = value_spans(text)
    assert span_probability(spelled, text, first, last) == pytest.approx(0.35)


def test_a_token_after_the_text_is_let_be() -> None:
    text = '{"mode":"batch"}'
    spelled = tokens(('{"mode":"', 1), ("batch", 0.5), ('"}', 1), ("<|im_end|>", 0.1))
    assert span_probability(spelled, text, text.index("batch"), len(text)) == pytest.approx(0.5)


@pytest.mark.parametrize("pieces", [[], [("{", 1.0)], [('{"mode":"batch"} and more', 1.0)]])
def test_tokens_that_do_not_add_up_to_the_text_give_no_probability(pieces: list[tuple[str, float]]) -> None:
    assert span_probability(tokens(*pieces), '{"mode":"batch"}', 9, 15) is None


@given(st.lists(st.tuples(st.text(min_size=1, max_size=4), st.floats(0.01, 1)), min_size=1, max_size=8), st.data())
def test_a_longer_span_is_never_likelier(pieces: list[tuple[str, float]], data: st.DataObject) -> None:
    text = "".join(piece for piece, _ in pieces)
    first = data.draw(st.integers(0, len(text) - 1))
    last = data.draw(st.integers(first + 1, len(text)))
    inner, outer = (span_probability(tokens(*pieces), text, *at) for at in ((first, last), (0, len(text))))
    assert inner is not None
    assert outer is not None
    assert 0 < outer <= inner <= 1


# --- labels ----------------------------------------------------------------------------------------------


def test_the_spellings_of_a_label_are_summed() -> None:
    listed = {"A": math.log(0.2), " A": math.log(0.3), "B": math.log(0.1)}
    assert math.exp(label_logprob(listed, ["A", " A"]).value) == pytest.approx(0.5)


def test_a_label_that_is_not_listed_is_at_most_as_likely_as_the_last_that_is() -> None:
    found = label_logprob({"A": math.log(0.6), "the": math.log(0.01)}, ["B", " B"])
    assert found == LabelLogprob(math.log(0.01), censored=True)


def test_a_token_that_is_ruled_out_is_unlikely_but_not_impossible() -> None:
    assert label_logprob({"A": -9999.0}, ["A"]) == LabelLogprob(LEAST_LOGPROB)


def test_the_mass_counts_what_was_seen_only() -> None:
    labels = [LabelLogprob(math.log(0.2)), LabelLogprob(math.log(0.3)), LabelLogprob(math.log(0.3), censored=True)]
    assert mass(labels) == pytest.approx(0.5)
    assert mass([]) == 0


def test_probabilities_are_shares_of_what_fell_on_labels() -> None:
    assert normalised({"a": math.log(0.1), "b": math.log(0.3)}) == pytest.approx({"a": 0.25, "b": 0.75})


def test_the_labels_own_attraction_is_divided_out() -> None:
    seen, alone = {"a": math.log(0.6), "b": math.log(0.3)}, {"a": 0.8, "b": 0.2}
    # 0.6 / 0.8 = 0.75 against 0.3 / 0.2 = 1.5
    assert normalised(without_prior(seen, alone)) == pytest.approx({"a": 1 / 3, "b": 2 / 3})


def test_orders_are_averaged_as_log_probabilities() -> None:
    orders = [{"a": math.log(0.8), "b": math.log(0.2)}, {"a": math.log(0.2), "b": math.log(0.2)}]
    # the geometric means are 0.4 and 0.2
    assert normalised(mean(orders)) == pytest.approx({"a": 2 / 3, "b": 1 / 3})


SCORES = st.dictionaries(NAMES, st.floats(LEAST_LOGPROB, 0), min_size=1, max_size=26)


@given(SCORES, st.floats(-50, 50))
def test_normalised_scores_are_probabilities_whatever_is_added_to_all(scores: dict[str, float], more: float) -> None:
    likely = normalised(scores)
    assert sum(likely.values()) == pytest.approx(1)
    assert normalised({name: score + more for name, score in scores.items()}) == pytest.approx(likely)
    assert likely[winner(scores)] == max(likely.values())


@given(SCORES)
def test_an_attraction_that_all_labels_share_changes_nothing(scores: dict[str, float]) -> None:
    even = dict.fromkeys(scores, 1 / len(scores))
    assert normalised(without_prior(scores, even)) == pytest.approx(normalised(scores))


@given(st.lists(st.floats(-700, 0), min_size=1, max_size=9))
def test_any_of_several_is_at_least_as_likely_as_each(values: list[float]) -> None:
    assert max(values) <= logsumexp(values) <= max(values) + math.log(len(values)) + 1e-9


def test_nothing_at_all_stays_nothing() -> None:
    assert logsumexp([-math.inf, -math.inf]) == -math.inf
