"""What is earned without looking: by chance, and by always giving the same answer."""

from __future__ import annotations

import pytest

from evals.baselines import Pick, best_constants, chance
from evals.case import Case
from evals.generate import generate


def case(name: str, family: str, right: tuple[tuple[str, ...], ...], harmful: tuple[str, ...] = ()) -> Case:
    keys = {"right_actions": right, "harmful_actions": harmful, "wrong_choices": (), "right_choices": ()}
    return generate(1, 0)[0].model_copy(update={"id": name, "family": family, **keys})


def earned(asked: Case, pick: Pick) -> float:
    """The share of groups covered; nothing with a harmful action, nothing for the choice `no`."""
    if pick.choice == "no" or set(pick.actions) & set(asked.harmful_actions):
        return 0.0
    return sum(bool({*group} & {*pick.actions}) for group in asked.right_actions) / len(asked.right_actions)


def test_chance_is_the_mean_over_choices_and_pairs_of_actions() -> None:
    # Half of the choices is wrong; of the three pairs of a, b, c two hold a.
    asked = case("one", "f", (("a",),))
    assert chance(asked, ["yes", "no"], ["a", "b", "c"], earned, draws=20_000) == pytest.approx(1 / 2 * 2 / 3, abs=0.01)


def test_chance_takes_all_actions_where_fewer_than_two_are_offered_and_is_the_same_again() -> None:
    asked = case("one", "f", (("a",),))
    assert chance(asked, ["yes"], ["a"], earned) == 1.0
    first, again = (chance(asked, ["yes", "no"], ["a", "b"], earned) for _ in range(2))
    assert first == again


def test_a_constant_answer_is_chosen_on_the_other_families_alone() -> None:
    # On family g, whose right action is b, only what is right for f (a) is known, and the other way round.
    cases = [case("1", "f", (("a",),)), case("2", "f", (("a",),)), case("3", "g", (("b",),), ("a",))]
    found = best_constants(cases, ["no", "yes"], ["a", "b", "c"], earned)
    assert found == [Pick("yes", ("b",)), Pick("yes", ("b",)), Pick("yes", ("a",))]
    assert [earned(one, pick) for one, pick in zip(cases, found, strict=True) if pick] == [0.0, 0.0, 0.0]


def test_a_constant_answer_takes_up_to_three_actions_where_each_earns_something() -> None:
    cases = [case("1", "f", (("a", "x"), ("b",), ("d",))), case("2", "g", (("a",), ("b",), ("d",)))]
    assert best_constants(cases, ["yes"], ["x", "d", "c", "b", "a"], earned) == [
        Pick("yes", ("d", "b", "a")),
        Pick("yes", ("x", "d", "b")),  # as good as with a, and first
    ]


def test_without_another_family_there_is_no_constant_answer() -> None:
    assert best_constants([case("1", "f", (("a",),))], ["yes"], ["a"], earned) == [None]
