"""From profile to rows, without Locust: nothing that was sent lacks its row."""

from __future__ import annotations

import gc
import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import gevent  # type: ignore[import-untyped]
import pytest

from console import BadInput, CannotJudge
from load_tests.profiles import EXAMPLE_PROFILE, ROOT, LoadProfile, load_profile
from load_tests.rows import read_rows
from load_tests.session import LoadSession, row_of, warm_up
from load_tests.sse import Ending, RawStream, RequestRecord, Status
from load_tests.workload import LoadPlan, plan_load
from serving.endpoint import connect
from serving.simulator import Fault

Start = Callable[..., str]
GOOD = "name: t\nusers: 2\nduration_s: 1\npipelines: examples/pipelines.yaml\n"


def plan_for(base_url: str, **changes: object) -> LoadPlan:
    profile = load_profile(EXAMPLE_PROFILE)
    return plan_load(LoadProfile.model_validate({**profile.model_dump(), **changes}), connect(base_url))


def ignore(_record: RequestRecord, _received: int) -> None:
    """Nobody to tell."""


def test_example_profile_asks_every_agent_about_every_pipeline(start_simulator: Start) -> None:
    plan = plan_for(start_simulator(), max_tokens=9)
    assert len(plan.requests) == 6
    assert {request.stage for request in plan.requests[:3]} == {"ingestion", "quality", "infrastructure"}
    body = json.loads(plan.requests[0].body)
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}
    assert body["max_tokens"] == 9
    assert body["response_format"]["type"] == "json_schema"


def test_users_walk_through_all_requests_each_from_a_place_of_its_own(start_simulator: Start) -> None:
    plan = plan_for(start_simulator())
    first = [plan.request_for(0, turn) for turn in range(6)]
    assert tuple(first) == plan.requests
    assert [plan.request_for(1, turn) for turn in range(5)] == first[1:]
    assert plan.request_for(1, 5) == first[0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (GOOD.replace("users: 2", "users: 0"), "users: found 0"),
        (GOOD.replace("users: 2", "users: 600"), "users: found 600"),
        (GOOD + "rate: 3\n", "unknown key 'rate'"),
        (GOOD.replace("examples/pipelines.yaml", "none.yaml"), "there is no file 'none.yaml'"),
        (GOOD.replace("duration_s: 1\n", ""), "duration_s: is missing"),
    ],
)
def test_bad_profile_is_refused_with_file_and_field(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "load.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=r"load\.yaml") as raised:
        load_profile(path)
    assert told in str(raised.value)


def test_pipelines_beside_the_profile_come_first(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("[]")
    (tmp_path / "load.yaml").write_text(GOOD.replace("examples/pipelines.yaml", "mine.yaml"))
    assert load_profile(tmp_path / "load.yaml").pipelines == str(tmp_path / "mine.yaml")


def test_one_unusable_pipeline_stops_the_test_before_it_starts(tmp_path: Path, start_simulator: Start) -> None:
    (tmp_path / "p.yaml").write_text("- id: a\n  source: {type: Kafka}\n- id: b\n")
    with pytest.raises(BadInput, match="source"):
        plan_for(start_simulator(), pipelines=str(tmp_path / "p.yaml"))


@pytest.mark.slow
def test_request_cut_by_the_end_of_the_test_leaves_a_row(tmp_path: Path, start_simulator: Start) -> None:
    plan = plan_for(start_simulator(ttft_ms=20, itl_ms=10_000))
    session = LoadSession(plan, tmp_path / "rows.jsonl", users=2, client="test")
    users = [gevent.spawn(session.ask, user, 0, ignore) for user in range(2)]
    gevent.sleep(0.5)
    session.stop_sending()
    gevent.killall(users)
    session.finish()
    rows = read_rows(tmp_path / "rows.jsonl")
    assert [record.status for record in rows.records] == [Status.INCOMPLETE] * 2
    assert all(record.ttft_s is not None and record.ttft_s >= 0.02 for record in rows.records)
    assert rows.lost == 0
    assert gc.isenabled()


def test_rows_say_their_condition_and_add_up(tmp_path: Path, start_simulator: Start) -> None:
    plan = plan_for(start_simulator(ttft_ms=5, itl_ms=1, output_tokens=4))
    session = LoadSession(plan, tmp_path / "rows.jsonl", users=1, client="test")
    for turn in range(3):
        session.ask(session.new_user(), turn, ignore)
    session.finish()
    rows = read_rows(tmp_path / "rows.jsonl")
    assert (rows.start.simulated, rows.start.prompt, rows.start.users) == (True, "grounded", 1)
    assert [record.status for record in rows.records] == [Status.OK] * 3
    assert all(record.output_tokens == record.content_chunks == 4 for record in rows.records)
    assert rows.end is not None
    assert (rows.end.sent, rows.lost) == (3, 0)


def test_lost_row_is_noticed_also_when_the_last_line_is_torn(tmp_path: Path, start_simulator: Start) -> None:
    path = tmp_path / "rows.jsonl"
    session = LoadSession(plan_for(start_simulator(ttft_ms=0, itl_ms=0)), path, users=1, client="test")
    for turn in range(2):
        session.ask(0, turn, ignore)
    session.finish()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:1] + lines[2:]))
    assert read_rows(path).lost == 1
    path.write_bytes(b"".join(lines[:2]) + lines[2][:40])
    assert (read_rows(path).lost, len(read_rows(path).records)) == (None, 1)


def test_rows_of_two_tests_never_share_a_file(tmp_path: Path, start_simulator: Start) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(BadInput, match="is there already"):
        LoadSession(plan_for(start_simulator()), tmp_path / "rows.jsonl", users=1, client="test")


def test_endpoint_that_fails_every_warm_up_is_not_load_tested(start_simulator: Start) -> None:
    with pytest.raises(CannotJudge, match="no warm-up request succeeded: http_error: HTTP 500"):
        warm_up(plan_for(start_simulator(fault=Fault.HTTP_500)))


def test_warm_up_asks_once_per_stage(start_simulator: Start) -> None:
    records = warm_up(plan_for(start_simulator(ttft_ms=0, itl_ms=0)))
    assert sorted(record.stage for record in records) == ["infrastructure", "ingestion", "quality"]


def test_a_key_that_the_server_quotes_does_not_get_into_a_row(
    start_simulator: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-123")
    plan = plan_for(start_simulator())
    raw = RawStream(ending=Ending.HTTP_ERROR, error="HTTP 401: wrong key sk-secret-123", http_status=401)
    record = row_of(plan, raw, user=0, turn=0, index=0, intended_ns=0)
    assert record.error == "HTTP 401: wrong key ***"


def test_locusts_web_ui_stays_on_this_machine() -> None:
    """Its page has a field for the host, and whoever opens it could have our key sent anywhere."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))
    assert settings["tool"]["locust"]["web-host"] == "127.0.0.1"
