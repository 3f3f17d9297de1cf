"""`python -m evals` generate, run and rescore, end to end on the simulator: what they print, write and exit with."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from common.console import BadInput, CannotJudge
from evals import __main__ as command
from evals.case import load_cases
from evals.generate import generate
from evals.scorers import SCORER_NAMES
from serving.simulator import Fault
from tests.evals.small_runs import CASES, FAST, write_suite

KEY = "sk-secret-123"
Start = Callable[..., str]


@dataclass(frozen=True)
class Store:
    """An MLflow store; making one takes seconds, so tests share it."""

    folder: Path

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder / 'mlflow.db'}"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A working folder from which no endpoint is known."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    return tmp_path


def here(*args: str) -> None:
    command.app(list(args), standalone_mode=False)


# --- run -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_suite_becomes_a_folder_and_one_mlflow_run_per_variant(
    start_simulator: Start, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    url = start_simulator(**FAST)
    here("run", str(write_suite(Path("suite.yaml"))), "--base-url", url, "--json", "--out", "right")
    told = capsys.readouterr()
    document = json.loads(told.out)
    assert (document["simulated"], document["cases"], document["samples"]) == (True, CASES, 2 * CASES)
    assert [variant["name"] for variant in document["variants"]] == ["write", "read"]
    assert document["results"] == json.loads(Path("right/results.json").read_text())
    assert [one["name"] for one in document["results"]["rules"]] == ["rules"]
    assert Path(document["report"]).is_file()
    assert len(Path("right/samples.jsonl").read_text().splitlines()) == 2 * CASES
    for variant in document["variants"]:
        run = mlflow_run(store, variant["mlflow_run_id"])
        assert (run.info.status, run.data.tags["simulated"]) == ("FINISHED", "true")
        assert run.data.params["prompt"] == variant["prompt"]
    kept = b"".join(file.read_bytes() for file in Path("right").iterdir())
    assert KEY not in told.out + told.err
    assert KEY.encode() not in kept
    assert sorted(path.name for path in Path().iterdir()) == ["right", "suite.yaml"]  # nothing strays


def mlflow_run(store: Store, run_id: str) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=store.uri).get_run(run_id)


def test_a_run_prints_its_leaderboard_and_where_the_report_is(
    start_simulator: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    here(
        "run", str(write_suite(Path("suite.yaml"))), "--base-url", start_simulator(**FAST), "--out", "a", "--no-mlflow"
    )
    out, err = capsys.readouterr()
    assert out == ""
    assert "SIMULATOR" in err
    assert "12 samples asked = 12 scored + 0 errored" in err
    assert "report: a/report.html" in err
    assert all(name in err for name in ("write", "read", "rules", "does not beat the rules"))


def test_a_run_prints_how_often_the_decision_stayed_for_changed_cases(
    start_simulator: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = write_suite(Path("suite.yaml"), metamorphic={"relations": ["reorder_keys"], "cases": 3})
    here("run", str(suite), "--base-url", start_simulator(**FAST), "--out", "a", "--no-mlflow")
    told = next(line for line in capsys.readouterr().err.splitlines() if "reorder_keys" in line)
    assert told.count("1.00 [") == 2
    assert told.count("the same prompt") == 2  # one of each variant


def test_samples_without_an_answer_are_rows_and_exit_3(
    start_simulator: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    url = start_simulator(**FAST, fault=Fault.HTTP_500, fault_first=2)
    suite = write_suite(Path("suite.yaml"), max_retries=0)
    with pytest.raises(CannotJudge) as failed:
        here("run", str(suite), "--base-url", url, "--out", "a", "--no-mlflow")
    assert failed.value.exit_code == 3
    assert str(failed.value).startswith("2 of 12 samples got no answer; first: the endpoint answered HTTP 500: ")
    assert str(failed.value).endswith("; ask them again: python -m evals run --resume --out a")
    assert "12 samples asked = 10 scored + 2 errored" in capsys.readouterr().err
    here("run", "--resume", "--out", "a", "--no-mlflow")  # the storm is over
    assert "12 samples asked = 12 scored + 0 errored" in capsys.readouterr().err
    assert len(Path("a/samples.jsonl").read_text().splitlines()) == 12


def test_a_dry_run_prints_the_matrix_and_asks_nothing(
    start_simulator: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    here("run", str(write_suite(Path("suite.yaml"), repeats=3)), "--base-url", start_simulator(), "--dry-run")
    err = capsys.readouterr().err
    assert "36 samples = 2 variants x 6 cases x 3 repeats" in err
    assert "write (baseline)" in err
    assert [path.name for path in Path().iterdir()] == ["suite.yaml"]


def test_a_dry_run_as_json_is_the_matrix(start_simulator: Start, capsys: pytest.CaptureFixture[str]) -> None:
    suite = str(write_suite(Path("suite.yaml"), repeats=3))
    here("run", suite, "--base-url", start_simulator(), "--dry-run", "--json")
    told = json.loads(capsys.readouterr().out)
    assert (told["samples"], told["cases"], told["repeats"], told["baseline"]) == (36, 6, 3, "write")
    assert [variant["name"] for variant in told["variants"]] == ["write", "read"]
    assert sum(group["cases"] for group in told["groups"]) == 6


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--dry-run", "--resume", "--out", "a"), "--dry-run: asks nothing, so there is nothing to --resume"),
        (("--judge-model", "big"), "--judge-model: needs --judge URL, where the judge is served"),
        (("--judge-pair", "a,b"), "--judge-pair: needs --judge URL, where the judge is served"),
    ],
)
def test_options_that_do_nothing_together_are_refused(options: tuple[str, ...], told: str) -> None:
    with pytest.raises(BadInput) as refused:
        here("run", str(write_suite(Path("suite.yaml"))), *options)
    assert str(refused.value) == told


def test_a_judge_that_is_down_is_told_before_anything_is_asked(start_simulator: Start) -> None:
    suite, url = str(write_suite(Path("suite.yaml"))), start_simulator()
    with pytest.raises(CannotJudge, match=r"^--judge: no endpoint answers at http://127\.0\.0\.1:9/v1 "):
        here("run", suite, "--base-url", url, "--out", "a", "--judge", "http://127.0.0.1:9/v1")
    assert not Path("a").exists()


def test_a_file_that_is_no_cache_is_told_before_a_folder_is_made(start_simulator: Start) -> None:
    suite = str(write_suite(Path("suite.yaml")))
    with pytest.raises(BadInput, match=r"^--cache suite\.yaml: cannot be used "):
        here("run", suite, "--base-url", start_simulator(), "--out", "a", "--cache", suite)
    assert not Path("a").exists()


@pytest.mark.slow
def test_a_store_that_fails_loses_no_result_and_is_told_how_to_log_later(
    start_simulator: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///file/mlflow.db")
    Path("file").write_text("")
    url = start_simulator(**FAST)
    with pytest.raises(CannotJudge) as failed:
        here("run", str(write_suite(Path("suite.yaml"))), "--base-url", url, "--out", "a b", "--json")
    assert str(failed.value).endswith("; log it later by: python -m evals rescore 'a b' --mlflow")
    told = json.loads(capsys.readouterr().out)
    assert [variant["mlflow_run_id"] for variant in told["variants"]] == [None, None]
    assert told["results"]["variants"][0]["scored"] == CASES


@pytest.mark.slow
def test_a_stored_run_is_logged_without_a_call(
    start_simulator: Start, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    suite = write_suite(Path("suite.yaml"), name="later")
    here("run", str(suite), "--base-url", start_simulator(**FAST), "--out", "a", "--no-mlflow")
    monkeypatch.setattr("socket.create_connection", None)
    here("rescore", "a", "--mlflow")
    assert "MLflow experiment plumbline-evals, one run per variant" in capsys.readouterr().err
    from mlflow.tracking import MlflowClient

    client = MlflowClient(store.uri)
    [experiment] = [one.experiment_id for one in client.search_experiments() if one.name == "plumbline-evals"]
    logged = client.search_runs([experiment], "tags.`plumbline.suite` = 'later'")
    assert sorted(run.data.params["variant"] for run in logged) == ["read", "write"]


@pytest.mark.slow
def test_a_cache_answers_the_second_run(start_simulator: Start, capsys: pytest.CaptureFixture[str]) -> None:
    url, suite = start_simulator(**FAST), str(write_suite(Path("suite.yaml")))
    cached = []
    for name in ("a", "b"):
        here("run", suite, "--base-url", url, "--out", name, "--cache", "cache.db", "--no-mlflow", "--json")
        cached.append(json.loads(capsys.readouterr().out)["answers_from_cache"])
    assert cached[0] < cached[1]
    samples = [json.loads(line) for line in Path("b/samples.jsonl").read_text().splitlines()]
    assert all(reply["tries"] == 0 for sample in samples for reply in sample["replies"])
    for name in ("scores.jsonl", "results.json", "report.html"):
        assert Path("a", name).read_bytes() == Path("b", name).read_bytes()


def test_no_endpoint_is_told_before_anything_is_written() -> None:
    suite = write_suite(Path("suite.yaml"))
    with pytest.raises(CannotJudge, match="python -m serving start --background"):
        here("run", str(suite))
    assert [path.name for path in Path().iterdir()] == ["suite.yaml"]


def test_a_bad_suite_is_found_before_the_endpoint_is_asked() -> None:
    suite = write_suite(Path("suite.yaml"), prompts=["fancy"])
    with pytest.raises(BadInput, match=r"^suite\.yaml: prompt 'fancy' is not known"):
        here("run", str(suite), "--base-url", "http://127.0.0.1:9/v1")


def test_only_a_resumed_run_goes_without_a_suite() -> None:
    with pytest.raises(BadInput, match=r"^SUITE\.yaml: is missing; only --resume --out FOLDER goes without it$"):
        here("run", "--out", "a")


def test_a_folder_that_cannot_be_made_is_told(start_simulator: Start) -> None:
    Path("file").write_text("")
    with pytest.raises(BadInput, match=r"^--out file/run: cannot be written \(Not a directory\)$"):
        here("run", str(write_suite(Path("suite.yaml"))), "--base-url", start_simulator(), "--out", "file/run")


# --- rescore ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_rescore_makes_the_same_bytes_without_an_endpoint(
    start_simulator: Start, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here(
        "run", str(write_suite(Path("suite.yaml"))), "--base-url", start_simulator(**FAST), "--out", "a", "--no-mlflow"
    )
    names = ("scores.jsonl", "results.json", "report.html")
    before = {name: Path("a", name).read_bytes() for name in names}
    for name in names:
        Path("a", name).unlink()
    monkeypatch.setattr("socket.create_connection", None)  # nothing is reached over the network
    here("rescore", "a", "--json")
    assert {name: Path("a", name).read_bytes() for name in names} == before
    printed = json.loads(capsys.readouterr().out)
    assert set(printed["definitions"]) == set(SCORER_NAMES)


@pytest.mark.slow
def test_rescoring_half_a_run_says_what_is_missing(start_simulator: Start, capsys: pytest.CaptureFixture[str]) -> None:
    here(
        "run", str(write_suite(Path("suite.yaml"))), "--base-url", start_simulator(**FAST), "--out", "a", "--no-mlflow"
    )
    path = Path("a/samples.jsonl")
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:7]))
    capsys.readouterr()
    here("rescore", "a")
    err = capsys.readouterr().err
    assert "12 samples asked = 7 scored + 0 errored + 5 missing" in err
    assert "go on by: python -m evals run --resume --out a" in err
    path.write_bytes(b"")
    with pytest.raises(CannotJudge, match=r"^a: holds no answer yet; ask by: "):
        here("rescore", "a")


@pytest.mark.slow
def test_a_judge_is_asked_once_and_kept_beside_the_scores(
    start_simulator: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    url = start_simulator(**FAST)
    suite = str(write_suite(Path("suite.yaml"), prompts=["write", "write_note"]))
    here("run", suite, "--base-url", url, "--out", "a", "--no-mlflow", "--judge", url)
    assert "judge plumbline-simulator: SIMULATOR, verdicts are made up" in capsys.readouterr().err
    first = json.loads(Path("a/judge.json").read_text())
    assert (first["n"], first["without_note"], first["reused"]) == (CASES, CASES, 0)
    here("rescore", "a", "--judge", url)
    assert json.loads(Path("a/judge.json").read_text()) == first | {"reused": CASES}


# --- generate --------------------------------------------------------------------------------------------


def test_generate_writes_the_same_bytes_for_the_same_seed(capsys: pytest.CaptureFixture[str]) -> None:
    for out in ("a.jsonl", "b.jsonl"):
        here("generate", "--n", "40", "--seed", "7", "--out", out)
    assert Path("a.jsonl").read_bytes() == Path("b.jsonl").read_bytes()
    assert load_cases(Path("a.jsonl")) == generate(40, 7)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("40 cases from 3")


def test_generate_says_where_it_cannot_write() -> None:
    with pytest.raises(BadInput, match=r"^--out no/a\.jsonl: cannot be written \(No such file or directory\)$"):
        here("generate", "--out", "no/a.jsonl")
