"""The cache of answers: what makes two requests one, and what becomes of damage."""

from __future__ import annotations

import json
import sqlite3
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents.asking.endpoint.reply import Reply, TokenLogprob
from common.console import BadInput
from evals.cache import AnswerCache, request_digest
from evals.variant import ServedModel
from tests.evals.small_runs import CASES, FAST, ask_all, new_run, rows

Start = Callable[..., str]
REPLY = Reply(text="a", finish_reason="stop", prompt_tokens=3, output_tokens=1, latency_s=2.5, tries=2)
MODEL = ServedModel(name="small", base_url="http://127.0.0.1:1/v1", model="m", simulated=False)
BODY = {"model": "m", "messages": [{"role": "user", "content": "a"}], "temperature": 0.0, "seed": 0}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers" / "cache.db"


def test_an_answer_comes_back_marked_as_not_asked(path: Path) -> None:
    with AnswerCache(path) as cache:
        assert cache.get("a") is None
        cache.put("a", REPLY)
        assert cache.get("a") == REPLY.model_copy(update={"tries": 0})
    with AnswerCache(path) as cache:
        assert cache.get("a") == REPLY.model_copy(update={"tries": 0})
        assert cache.get("b") is None
        assert (cache.hits, cache.corrupt) == (1, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n"},
        {"messages": [{"role": "user", "content": "b"}]},
        {"temperature": 0.1},
        {"seed": 1},
        {"max_tokens": 5},
        {"response_format": {"type": "json_schema"}},
    ],
)
def test_another_request_is_another_row(change: dict[str, Any]) -> None:
    assert request_digest(MODEL, BODY | change, 0) != request_digest(MODEL, BODY, 0)


@pytest.mark.parametrize("change", [{"name": "large"}, {"model": "n"}, {"simulated": True}])
def test_another_model_is_another_row(change: dict[str, Any]) -> None:
    assert request_digest(MODEL.model_copy(update=change), BODY, 0) != request_digest(MODEL, BODY, 0)


def test_another_route_is_another_row() -> None:
    assert request_digest(MODEL, BODY, 0, "decisions") != request_digest(MODEL, BODY, 0)


def test_log_probs_come_back_to_the_last_digit(path: Path) -> None:
    """What `read` rests on: a decision from the cache is the decision that was read."""
    token = TokenLogprob("token_id:32", -0.12345678901234567, 1, (("token_id:33", -9.75), ("token_id:34", -1e300)))
    with AnswerCache(path) as cache:
        cache.put("a", REPLY.model_copy(update={"logprobs": (token,)}))
    with AnswerCache(path) as cache:
        assert (found := cache.get("a")) is not None
        assert found.logprobs == (token,)


def test_another_repeat_is_another_row_and_another_address_is_not() -> None:
    assert request_digest(MODEL, BODY, 1) != request_digest(MODEL, BODY, 0)
    moved = MODEL.model_copy(update={"base_url": "http://127.0.0.1:2/v1"})
    assert request_digest(moved, BODY, 0) == request_digest(MODEL, BODY, 0)


@pytest.mark.parametrize("damage", ["reply = x'00ff'", "reply = substr(reply, 2)", "digest = null", "reply = 'text'"])
def test_a_damaged_row_is_counted_and_asked_anew(path: Path, damage: str) -> None:
    with AnswerCache(path) as cache:
        cache.put("a", REPLY)
        cache.put("b", REPLY)
    with sqlite3.connect(path) as db:
        db.execute(f"update answers set {damage} where request = 'a'")  # noqa: S608 - the test's own words
    with AnswerCache(path) as cache:
        assert cache.get("a") is None
        assert cache.corrupt == 1
        assert cache.get("b") is not None
        cache.put("a", REPLY)
    with AnswerCache(path) as cache:
        assert cache.get("a") is not None
        assert cache.corrupt == 0


def test_a_row_with_another_ones_reply_is_damaged(path: Path) -> None:
    with AnswerCache(path) as cache:
        cache.put("a", REPLY)
        cache.put("b", REPLY.model_copy(update={"text": "b"}))
    with sqlite3.connect(path) as db:
        db.execute(
            "update answers set (digest, reply) = (select digest, reply from answers where request = 'b') "
            "where request = 'a'"
        )
    with AnswerCache(path) as cache:
        assert cache.get("a") is None
        assert cache.corrupt == 1


def test_a_file_that_is_no_database_is_told_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes, which are longer than a database's head is: " * 20)
    before = path.read_bytes()
    with pytest.raises(BadInput, match=r"^--cache .*notes\.txt: cannot be used \(file is not a database\)"):
        AnswerCache(path)
    assert path.read_bytes() == before


def test_another_programs_database_is_told_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as db:
        db.execute("create table answers (mine text)")
    with pytest.raises(BadInput, match="is a database, but no cache of this version"):
        AnswerCache(path)


@pytest.mark.parametrize("prompt", ["write", "read_prior", "reason"])
def test_a_second_run_asks_nothing_and_gets_the_same_answers(
    tmp_path: Path, path: Path, start_simulator: Start, prompt: str
) -> None:
    url = start_simulator(**FAST)
    # One at a time: else either repeat may be the first to ask for a prior, which is asked once for both.
    how = {"prompts": [prompt], "repeats": 2, "concurrency": 1}
    first, second = (new_run(tmp_path / name, url, **how) for name in ("a", "b"))
    with AnswerCache(path) as cache:
        ask_all(first, cache=cache)
    before = received(url)
    with AnswerCache(path) as cache:
        ask_all(second, cache=cache)
        assert cache.hits >= 2 * CASES
    assert received(url) == before
    was, now = ({row["index"]: row for row in rows(run)} for run in (first, second))
    assert {index: row["decision"] for index, row in now.items()} == {
        index: row["decision"] for index, row in was.items()
    }
    for index, row in now.items():
        assert row["request"] == was[index]["request"]
        assert row["replies"] == [{**reply, "tries": 0} for reply in was[index]["replies"]]


def test_repeats_are_no_copies_of_one_another(tmp_path: Path, path: Path, start_simulator: Start) -> None:
    run = new_run(tmp_path, start_simulator(**FAST), prompts=["write"], repeats=3)
    with AnswerCache(path) as cache:
        ask_all(run, cache=cache)
        assert cache.hits == 0


def received(url: str) -> int:
    with urllib.request.urlopen(url.removesuffix("/v1") + "/plumbline/requests") as answer:
        return int(json.load(answer)["received"])
