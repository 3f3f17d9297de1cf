"""The way `read`: one letter a question, read as probabilities; orders averaged, the letters' attraction taken out."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.asking.answerer import ModelAnswer, ask
from agents.asking.endpoint.client import together
from agents.asking.endpoint.reply import EndpointFailed, ErrorClass
from agents.asking.endpoint.transport import Route
from agents.asking.question import StageQuestion
from agents.asking.variant import PromptVariant
from agents.asking.ways.label_question import Shown, chunks, label_questions, rotated
from agents.specialists.decision import Reading
from tests.agents.asking.scripted_client import ScriptedClient, letters_only, listing, not_found
from tests.agents.asking.toy import TOY, action, asked, label, registered, reply_of, spec_of, variant_of

READ = variant_of("read")
Body = dict[str, Any]


def answered(
    shares: Callable[[Body], dict[str, float]], variant: PromptVariant = READ, question: StageQuestion | None = None
) -> tuple[ModelAnswer, list[Body]]:
    """What is made of an endpoint's letters, and the chat completions that were asked."""
    client = letters_only(shares)
    answer = asyncio.run(ask(client, "m", variant, question or asked(variant)))
    return answer, client.chats


def menu(body: Body) -> dict[str, str]:
    """What each letter stands for, by the words shown."""
    return dict(re.findall(r"^([A-Z]): (.*)$", body["messages"][0]["content"], re.MULTILINE))


def by_words(likely: dict[str, float]) -> Callable[[Body], dict[str, float]]:
    """A model that goes by what is shown: each option's probability by the end of its words, 0.02 for others."""

    def shares(body: Body) -> dict[str, float]:
        found = {letter: words.removeprefix("Do ").partition(":")[0] for letter, words in menu(body).items()}
        return {letter: likely.get(words, 0.02) for letter, words in found.items()}

    return shares


LIKELY = {"batch": 0.1, "batch_load": 0.2, "stream": 0.5, "wash": 0.1, "wash_all": 0.3, "mend": 0.4, "paint": 0.1}


def test_the_choice_and_the_likeliest_actions_are_read_with_their_probabilities() -> None:
    answer, bodies = answered(by_words(LIKELY))
    decision = answer.decision
    assert decision is not None
    assert (decision.choice.id, decision.ids) == ("stream", ("mend", "wash_all"))
    assert decision.choice.probability == pytest.approx(0.5 / 0.8)
    assert [one.probability for one in decision.actions] == pytest.approx([0.4 / 0.9, 0.3 / 0.5])
    assert decision.reading is not None
    assert decision.reading.label_mass == pytest.approx(0.8)
    unknown = decision.reading.model_copy(update={"label_mass": None})
    assert unknown == Reading(way="read", source="label tokens")
    assert len(answer.replies) == len(bodies) == 2
    assert (set(decision.facts) <= {"type", "cpu_percent"}, decision.note, answer.problem) == (True, None, None)


def test_as_many_actions_are_picked_as_the_variant_says() -> None:
    for count in (1, 2, 3):
        answer, _ = answered(by_words(LIKELY), variant_of("read", actions_picked=count))
        assert answer.decision is not None
        assert answer.decision.ids == ("mend", "wash_all", "wash")[:count]


def test_what_is_not_permitted_is_left_out_of_the_reading_and_keeps_its_letter() -> None:
    slow = asked(READ, spec_of("slow"))
    answer, bodies = answered(by_words(LIKELY), question=slow)
    assert answer.decision is not None
    assert (answer.decision.choice.id, answer.decision.ids) == ("batch_load", ("wash_all", "wash"))
    assert answer.decision.choice.probability == pytest.approx(0.2 / 0.3)
    assert menu(bodies[1])["C"] == "Do mend"
    assert bodies[1]["messages"][-1]["content"].endswith("\nOffered here: A, B, D.\nAnswer with one letter.")
    everything = variant_of("read", offer="all")
    answer, bodies = answered(by_words(LIKELY), everything, asked(everything, spec_of("slow")))
    assert answer.decision is not None
    assert (answer.decision.choice.id, answer.decision.ids[0]) == ("stream", "mend")
    assert "Offered here" not in bodies[1]["messages"][-1]["content"]


def test_a_question_with_one_answer_is_not_asked() -> None:
    question = replace(asked(READ), choices=("batch",))
    answer, bodies = answered(by_words(LIKELY), question=question)
    assert answer.decision is not None
    assert (answer.decision.choice.id, answer.decision.choice.probability) == ("batch", 1)
    assert len(bodies) == 1
    answer, bodies = answered(by_words(LIKELY), question=replace(question, actions=("paint",)))
    assert answer.decision is not None
    assert (answer.decision.choice.id, answer.decision.ids, len(bodies)) == ("batch", ("paint",), 1)


def test_orders_take_out_a_liking_for_the_first_letter() -> None:
    def likes_a(body: Body) -> dict[str, float]:
        shares = by_words(LIKELY)(body)
        return {letter: share * (8 if letter == "A" else 1) / 9 for letter, share in shares.items()}

    once, _ = answered(likes_a)
    assert once.decision is not None
    assert once.decision.choice.id == "batch"
    variant = variant_of("read", orders=3)
    thrice, bodies = answered(likes_a, variant)
    assert thrice.decision is not None
    assert thrice.decision.choice.id == "stream"
    # each option was A once, so the factor falls out: the shares are those of the words
    assert thrice.decision.choice.probability == pytest.approx(0.5 / 0.8)
    assert thrice.decision.reading is not None
    assert (thrice.decision.reading.orders, thrice.decision.reading.orders_agree) == (3, False)
    assert [menu(body)["A"].partition(":")[0] for body in bodies[:3]] == ["batch", "batch_load", "stream"]


def test_orders_that_have_the_same_winner_agree() -> None:
    answer, _ = answered(by_words(LIKELY), variant_of("read", orders=2))
    assert answer.decision is not None
    assert answer.decision.reading is not None
    assert answer.decision.reading.orders_agree is True


def test_the_attraction_of_letters_on_cases_without_facts_is_divided_out() -> None:
    alone = {"A": 0.6, "B": 0.2, "C": 0.1, "D": 0.1}

    def attracted(body: Body) -> dict[str, float]:
        about = body["messages"][-1]["content"]
        if '"type"' not in about:
            return {letter: alone[letter] for letter in menu(body)}
        return {"A": 0.5, "B": 0.3, "C": 0.1} | ({"D": 0.05} if len(menu(body)) == 4 else {})

    variant = variant_of("read", prior=True)
    client = letters_only(attracted)

    async def run() -> list[ModelAnswer]:
        one = await ask(client, "m", variant, asked(variant))
        return [one, await ask(client, "m", variant, asked(variant, spec_of("other")))]

    answer, _ = asyncio.run(run())
    assert answer.decision is not None
    # choice: 0.5/0.6, 0.3/0.2, 0.1/0.1 over their sum; the attraction's own scale falls out
    assert answer.decision.choice.id == "batch_load"
    assert answer.decision.choice.probability == pytest.approx(1.5 / (5 / 6 + 1.5 + 1))
    assert answer.decision.reading is not None
    assert answer.decision.reading.prior
    free = [body for body in client.chats if '"type"' not in body["messages"][-1]["content"]]
    assert len(free) == 6  # three texts for each of two questions, however many pipelines follow
    assert len(client.chats) == 6 + 4
    assert len(answer.replies) == 2


def test_a_catalogue_longer_than_the_alphabet_is_asked_about_in_parts() -> None:
    actions = tuple(action(f"do_{number}") for number in range(60))
    with registered(replace(TOY, catalogue=actions)):
        likely = {"stream": 0.9, "do_7": 0.1, "do_59": 0.3}
        answer, bodies = answered(by_words(likely), variant_of("read", list_permitted=False))
    assert [len(menu(body)) for body in bodies] == [3, 20, 20, 20]
    assert answer.decision is not None
    assert answer.decision.ids == ("do_59", "do_7")
    # one share of everything that fell on letters, over all parts
    total = 0.1 + 0.3 + 58 * 0.02
    assert [one.probability for one in answer.decision.actions] == pytest.approx([0.3 / total, 0.1 / (total - 0.3)])


def test_a_letter_that_was_not_seen_is_not_picked() -> None:
    answer, _ = answered(lambda body: {"A": 0.5} if len(menu(body)) == 4 else {"A": 0.5, "B": 0.1})
    assert answer.decision is not None
    assert answer.decision.ids == ("wash",)
    assert answer.decision.actions[0].probability is not None
    assert answer.decision.actions[0].probability < 1


def test_no_letter_at_all_is_no_decision_and_its_reply_is_kept() -> None:
    answer, _ = answered(lambda _: {"The": 0.5, "I": 0.2})
    assert answer.decision is None
    assert answer.problem == "no log-probs: none of the letters for the choice is among the likely tokens"
    assert len(answer.replies) == 2


def test_an_endpoint_without_log_probs_gives_no_decision() -> None:
    def answer(_: Body, route: Route) -> Any:
        if route != "chat/completions":
            raise not_found()
        return reply_of("A")

    came = asyncio.run(ask(ScriptedClient(answer), "m", READ, asked(READ)))
    assert came.decision is None
    assert came.problem == "no log-probs: the endpoint gives none (logprobs, top_logprobs)"
    assert len(came.replies) == 2


def test_a_sentence_comes_first_and_is_told_with_each_question() -> None:
    variant = variant_of("reason", then="read", reason_characters=200)

    def answer(body: Body, route: Route) -> Any:
        if route != "chat/completions":
            raise not_found()
        return listing(by_words(LIKELY)(body)) if "logprobs" in body else reply_of(" Seconds matter. ")

    client = ScriptedClient(answer)
    came = asyncio.run(ask(client, "m", variant, asked(variant)))
    first, *others = client.chats
    assert (first["max_tokens"], first["stop"]) == (50, ["\n"])
    for body in others:
        assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "user"]
        assert body["messages"][2]["content"] == "Seconds matter."
    assert came.decision is not None
    assert came.decision.reading is not None
    assert (came.decision.reading.way, came.decision.choice.id, len(came.replies)) == ("reason", "stream", 3)


# --- layout ----------------------------------------------------------------------------------------------


def test_all_but_the_last_message_is_the_same_for_all_pipelines() -> None:
    variant = variant_of("read", orders=2)
    pipelines = [asked(variant, spec_of("slow", description="d")), asked(variant, spec_of(), label())]
    for one, other in zip(*(label_questions(variant, question) for question in pipelines), strict=True):
        assert one.messages[:-1] == other.messages[:-1]
        assert one.messages[-1] != other.messages[-1]


def test_with_both_menus_shown_the_questions_differ_in_their_last_line_alone() -> None:
    variant = variant_of("read", menus="together", list_permitted=False, orders=2)
    choice, _, actions, _ = (one.messages for one in label_questions(variant, asked(variant)))
    assert choice[0] == actions[0]
    assert choice[0]["content"].count("\nA: ") == 2
    texts = [messages[-1]["content"].rpartition("\n") for messages in (choice, actions)]
    assert texts[0][0] == texts[1][0]
    assert [text[2] for text in texts] == [
        "mode: How is it to be played with? Answer with one letter.",
        "Which action matters most? Answer with one letter.",
    ]


OPTIONS = st.integers(1, 120).map(lambda count: [Shown(f"o{number}", "w") for number in range(count)])


@given(OPTIONS)
def test_parts_hold_all_options_in_order_and_are_of_about_one_size(options: list[Shown]) -> None:
    parts = chunks(options)
    assert [one for part in parts for one in part] == options
    assert max(map(len, parts)) <= 26
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(st.integers(1, 26), st.integers(1, 6))
def test_orders_are_rotations_and_the_first_is_the_menus_own(count: int, orders: int) -> None:
    options = [Shown(f"o{number}", "w") for number in range(count)]
    turned = [rotated(options, order, orders) for order in range(orders)]
    assert list(turned[0]) == options
    for one in turned:
        at = options.index(one[0])
        assert list(one) == options[at:] + options[:at]
    assert len({one[0].id for one in turned}) == min(count, orders)


# --- together --------------------------------------------------------------------------------------------


def test_one_that_fails_takes_the_others_with_it() -> None:
    ended: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("waits")

    async def fails() -> None:
        await asyncio.sleep(0)
        raise EndpointFailed("down", ErrorClass.UNREACHABLE)

    async def run() -> None:
        with pytest.raises(EndpointFailed, match="down"):
            await together(waits(), fails())
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())
    assert ended == ["waits"]


def test_cancelled_it_leaves_nothing() -> None:
    async def run() -> None:
        asking = asyncio.create_task(together(asyncio.sleep(60), asyncio.sleep(60)))
        await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())
