"""A run's folder as MLflow runs: what is logged is what was answered and scored, whatever the answers hold."""

from __future__ import annotations

import json
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet  # type: ignore[import-untyped]

from agents.asking.endpoint.parameters import Parameters
from agents.asking.endpoint.reply import Reply
from agents.asking.variant import Sampling, load_prompt
from agents.labels.policy import Policy, load_policy
from agents.specialists.registry import labels_for
from common.console import BadInput, CannotJudge
from evals import record
from evals.by_rules import decided_by_rules
from evals.compare import Run
from evals.generate import generate
from evals.logged_rows import SAMPLED, First, Gathered, Row, SampleFile, columns, gather, record_of, rows
from evals.record import (
    as_yaml,
    check_complete,
    costs,
    log_run_folder,
    metrics,
    params,
    policy_text,
    prompt_text,
    tags,
    trace,
)
from evals.results import Results, compute_results, write_results
from evals.run_folder import RunFolder
from evals.scorers import SCORER_NAMES
from tests.evals.decisions import decision_of
from tests.evals.made_runs import failed, made_run, reply, right, wrong, wrong_on
from tests.tracking.remote import running_server
from tracking.runs import LoggedRun, digest

CASES = generate(12, 3)
KEY = "sk-secret-123"
ODD = 'naïve \x00 </script><b>{{ x }}</b> "quote\n試験 \x1b[31m'


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`mixed` is right on all cases but three: one wrong, one without an answer, one odd; `wrong` is wrong on all."""
    odd, none = CASES[1].id, CASES[2].id

    def mixed(case: Any, repeat: int) -> Any:
        if case.id == none:
            return failed(case, repeat)
        if case.id == odd:
            return {"replies": (reply(ODD),), "problem": "is no JSON"}
        return wrong_on([CASES[0].id])(case, repeat)

    made = made_run(tmp_path_factory.mktemp("run") / "made", {"mixed": mixed, "wrong": wrong}, cases=CASES, repeats=2)
    (made.folder.path / "report.html").write_text("<html>the report</html>")
    return made


@pytest.fixture(scope="module")
def results(run: Run) -> Results:
    return compute_results(run.folder, run.table)


@pytest.fixture
def gathered(run: Run, tmp_path: Path) -> dict[str, Gathered]:
    return gather(run.folder, run.table.scorers, tmp_path)


def row(run: Run, **sample: Any) -> Row:
    first = next(rows(run.folder))
    return replace(first, sample=first.sample.model_copy(update=sample))


# --- rows ------------------------------------------------------------------------------------------------


def test_every_sample_is_a_row_of_its_variants_file_with_its_scores_and_why(
    run: Run, gathered: dict[str, Gathered]
) -> None:
    for number, name in enumerate(run.table.variants):
        table = parquet.read_table(gathered[name].file.path).to_pandas()
        assert len(table) == gathered[name].file.rows == 24
        assert table["index"].is_monotonic_increasing
        assert list(table["case_id"]) == [case.id for case in CASES for _ in range(2)]
        for place, scorer in enumerate(run.table.scorers):
            stored = table[scorer].to_numpy().reshape(12, 2)
            assert ((stored == run.table.values[number, :, :, place]) | pd.isna(stored)).all()
            assert (pd.isna(stored) == pd.isna(run.table.values[number, :, :, place])).all()
            assert list(table[scorer].isna()) == list(table[f"{scorer}_why"].isna())


def test_a_failure_is_a_row_without_scores_and_any_text_is_kept_as_it_is(
    run: Run, gathered: dict[str, Gathered]
) -> None:
    table = parquet.read_table(gathered["mixed"].file.path).to_pandas()
    errored = table[table["case_id"] == CASES[2].id]
    assert list(errored["error"]) == ["the endpoint refused"] * 2
    assert errored[["answer", "chosen", "picked", "latency_s", "output_tokens", "headline"]].isna().all().all()
    assert list(table[table["case_id"] == CASES[1].id]["answer"]) == [ODD] * 2
    assert (gathered["mixed"].scored, gathered["mixed"].errored) == (22, 2)


def test_a_row_holds_the_decision_the_rules_decision_and_the_key(run: Run) -> None:
    case = CASES[3]
    decision = decision_of(case, good=True, note="It says so.").model_copy(update={"facts": ("latency_need",)})
    rules = decided_by_rules(case, labels_for(case.spec, load_policy("standard")))
    one = replace(row(run, decision=decision), case=case, rules=rules)
    told = record_of(one)
    assert (told["chosen"], told["chosen_probability"]) == (decision.choice.id, 0.75)
    assert told["picked"] == ", ".join(decision.ids)
    assert told["picked_probabilities"] == [0.5] * len(decision.ids)
    assert (told["rests_on"], told["note"], told["problem"]) == ("latency_need", "It says so.", None)
    assert (told["rules_chosen"], told["rules_picked"]) == (rules.choice.id, ", ".join(rules.ids))
    assert told["as_rules"] == decision.agrees_with(rules)
    assert told["right_actions"] == "; ".join(" or ".join(group) for group in case.right_actions)
    assert record_of(replace(one, sample=one.sample.model_copy(update={"decision": rules})))["as_rules"] is True


def test_the_rules_row_is_that_of_the_variants_own_policy(tmp_path: Path) -> None:
    made = made_run(tmp_path / "run", {"one": right, "two": right}, cases=CASES)
    plan = made.folder.plan
    other = plan.variants[1].model_copy(update={"policy": load_policy("seed")})
    folder = RunFolder(made.folder.path, plan.model_copy(update={"variants": (plan.variants[0], other)}))
    for one in rows(folder):
        policy = load_policy("standard" if one.sample.variant == "one" else "seed")
        assert one.rules == decided_by_rules(one.case, labels_for(one.case.spec, policy))


def test_the_worst_come_first_and_failures_are_not_among_them(gathered: dict[str, Gathered]) -> None:
    worst = gathered["mixed"].worst.rows
    values = [one.scores["headline"]["value"] for one in worst]
    assert values == sorted(values)
    assert {one.case.id for one in worst[:4]} == {CASES[0].id, CASES[1].id}
    assert len(worst) == 22
    assert [one.case.id for one in gathered["mixed"].failed.rows] == [CASES[2].id] * 2


def test_the_same_answers_are_drawn_every_time_and_no_more_than_said(run: Run, tmp_path: Path) -> None:
    drawn = [
        [one.sample.index for one in gather(run.folder, run.table.scorers, tmp_path / name)["wrong"].sampled.rows]
        for name in ("a", "b")
    ]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == SAMPLED // len(run.folder.plan.variants)


@given(st.lists(st.integers(), unique=True), st.integers(1, 5))
def test_the_first_rows_are_those_of_a_sort(keys: list[int], limit: int) -> None:
    first, offered = First(limit), {key: cast("Row", object()) for key in keys}
    for key, one in offered.items():
        first.offer((key,), one)
        assert len(first._held) <= 2 * limit
    assert first.rows == [offered[key] for key in sorted(keys)[:limit]]
    assert first.offered == len(keys)


def test_an_answer_of_megabytes_is_kept_whole_in_the_file_and_cut_where_it_is_looked_at(
    run: Run, tmp_path: Path
) -> None:
    huge = row(run, replies=(reply("x" * 9_000_000),))
    with SampleFile(tmp_path / "samples.parquet", SCORER_NAMES) as file:
        found = Gathered(file)
        found.add(huge)
        assert file._waiting == []
    assert found.worst.rows[0].answer == "x" * 8000
    assert parquet.read_table(file.path)["answer"][0].as_py() == "x" * 9_000_000


def test_a_file_in_several_groups_holds_every_row(run: Run, tmp_path: Path) -> None:
    one = row(run)
    with SampleFile(tmp_path / "samples.parquet", SCORER_NAMES) as file:
        for index in range(2001):
            file.add({**record_of(one), "index": index})
    assert parquet.read_metadata(file.path).num_row_groups == 3
    assert parquet.read_table(file.path)["index"].to_pylist() == list(range(2001))
    assert parquet.read_schema(file.path).names == columns(SCORER_NAMES).names


def test_a_cached_answer_has_no_latency_of_this_run_and_unknown_tokens_are_not_zero(run: Run) -> None:
    known = Reply(text="", finish_reason="stop", prompt_tokens=100, output_tokens=7, latency_s=0.5)
    repaired = row(run, replies=(known, known))
    assert (repaired.latency_s, repaired.tokens("prompt_tokens"), repaired.tokens("output_tokens")) == (1.0, 200, 14)
    cached = row(run, replies=(known, known.model_copy(update={"tries": 0})))
    assert (cached.from_cache, cached.latency_s) == (True, None)
    silent = row(run, replies=(known, known.model_copy(update={"output_tokens": None})))
    assert (silent.tokens("prompt_tokens"), silent.tokens("output_tokens")) == (200, None)
    assert (row(run, replies=()).latency_s, row(run, replies=()).tokens("prompt_tokens")) == (None, None)


# --- stored == scored ------------------------------------------------------------------------------------


def test_rows_that_are_not_those_of_the_table_are_refused(run: Run, gathered: dict[str, Gathered]) -> None:
    check_complete(run.folder, run.table, gathered)
    gathered["mixed"].errored -= 1
    with pytest.raises(CannotJudge, match=r"mixed has 24 samples, 22 answered and 1 errored, but scores for 22 and 2"):
        check_complete(run.folder, run.table, gathered)


def test_a_scored_sample_that_is_no_longer_there_is_told(tmp_path: Path) -> None:
    one = made_run(tmp_path / "run", {"a": right}, cases=CASES[:3])
    lines = one.folder.samples_path.read_bytes().splitlines(keepends=True)
    one.folder.samples_path.write_bytes(b"".join(lines[:2]))
    with pytest.raises(CannotJudge, match=r"samples\.jsonl: sample 2 was scored and is not there; score it anew"):
        gather(one.folder, one.table.scorers, tmp_path / "made")
    one.folder.samples_path.write_bytes(b"")
    assert list(rows(one.folder)) == []


def test_a_run_that_was_not_asked_to_its_end_tells_how_many_are_missing(tmp_path: Path) -> None:
    part = made_run(tmp_path / "run", {"a": right}, cases=CASES, leave_out=5)
    found = gather(part.folder, part.table.scorers, tmp_path / "made")
    check_complete(part.folder, part.table, found)
    logged = metrics(compute_results(part.folder, part.table), "a")
    assert (logged["samples"], logged["samples_missing"]) == (7.0, 5.0)


# --- metrics, params, tags -------------------------------------------------------------------------------


def test_every_mean_is_logged_with_its_n_and_bounds(results: Results) -> None:
    logged = metrics(results, "mixed")
    mean = results.of("mixed").scores["headline"]
    assert mean is not None
    assert (logged["headline_mean"], logged["headline_n"]) == (mean.mean, mean.n)
    assert (logged["headline_ci95_low"], logged["headline_ci95_high"]) == (mean.low, mean.high)
    assert (logged["samples"], logged["samples_scored"], logged["samples_errored"]) == (24.0, 22.0, 2.0)
    assert logged["errors_unreachable"] == 2.0
    assert logged["samples_undecided"] == 2.0
    rules = results.rules[0].scores["headline"]
    assert rules is not None
    assert (logged["rules_headline_mean"], logged["rules_headline_n"]) == (rules.mean, rules.n)
    for stage, agent in results.of("mixed").agents.items():
        assert logged.get(f"headline_{stage}_mean") == (agent.mean if agent else None)


def test_the_difference_from_the_baseline_is_the_others_and_not_its_own(results: Results) -> None:
    logged = metrics(results, "wrong")
    (one,) = [one for one in results.comparisons if one.scorer == "headline"]
    assert (one.a, one.b) == ("mixed", "wrong")
    assert logged["headline_vs_baseline_difference"] == one.difference < 0
    assert logged.get("headline_vs_baseline_p_holm") == one.p_holm
    assert not [name for name in metrics(results, "mixed") if "vs_baseline" in name]


def test_what_is_not_known_is_not_logged(results: Results) -> None:
    unknown: dict[str, Any] = {"scores": {"headline": None}, "agents": {"quality": None}}
    variants, rules = (results.of("mixed").model_copy(update=unknown),), (results.rules[0].model_copy(update=unknown),)
    logged = metrics(results.model_copy(update={"variants": variants, "rules": rules, "comparisons": ()}), "mixed")
    assert not [name for name in logged if "headline" in name]


def test_costs_by_hand(tmp_path: Path) -> None:
    with SampleFile(tmp_path / "a.parquet", ()) as file:
        found = Gathered(
            file, from_cache=2, latencies_s=array("d", [1, 2, 3, 4, 5]), prompt_tokens=array("q", [10, 20])
        )
    assert costs(found) == pytest.approx(
        {
            "samples_from_cache": 2,
            "latency_s_n": 5,
            "latency_s_median": 3,
            "latency_s_p05": 1.2,
            "latency_s_p95": 4.8,
            "prompt_tokens_n": 2,
            "prompt_tokens_median": 15,
            "prompt_tokens_p05": 10.5,
            "prompt_tokens_p95": 19.5,
            "prompt_tokens_total": 30,
        }
    )


def test_a_prompts_text_is_its_words_and_not_how_it_is_sampled_or_sent() -> None:
    prompt = load_prompt("write")
    sent = Parameters(leave_out=("seed",))
    hot = prompt.model_copy(update={"sampling": Sampling(temperature=1.5), "constrained": False, "parameters": sent})
    text = prompt_text(prompt)
    assert prompt_text(hot) == text
    told = yaml.safe_load(text)
    assert (told["name"], told["ask"]) == ("write", "write")
    other = prompt.model_copy(update={"description": prompt.description + "."})
    assert digest(prompt_text(other)) != digest(text)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_words_come_back_from_a_prompts_text(words: str) -> None:
    assert yaml.safe_load(as_yaml({"user": words})) == {"user": words}


def test_params_and_tags_name_the_condition(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    plan = run.folder.plan
    given_params = params(plan, plan.variants[0], "prompts:/plumbline-write/1")
    assert given_params["cases_digest"] == plan.cases_digest == run.folder.cases.digest
    assert (given_params["prompt"], given_params["ask"], given_params["offer"]) == ("write", "write", "permitted")
    assert (given_params["sampling_seed"], given_params["repeats"]) == (0, 2)
    named = tags(run.folder, plan.variants[0])
    assert (named["plumbline.run"], named["simulated"], named["asked_git_sha"]) == ("made", "true", plan.git_sha)
    assert [tags(run.folder, one)["plumbline.baseline"] for one in plan.variants] == ["true", "false"]
    assert KEY not in repr(given_params) + repr(named)


def test_policies_of_one_name_and_other_numbers_are_told_apart(run: Run) -> None:
    plan, (variant, _) = run.folder.plan, run.folder.plan.variants
    other = variant.model_copy(update={"policy": load_policy("seed").model_copy(update={"name": variant.policy.name})})
    digests = {params(plan, one, "prompts:/plumbline-write/1")["policy_digest"] for one in (variant, other)}
    assert len(digests) == 2
    assert Policy.model_validate(yaml.safe_load(policy_text(other.policy))) == other.policy


def test_only_the_first_replys_span_shows_the_first_messages(run: Run) -> None:
    """What the others were asked with is not kept, and must not be made up."""
    twice = row(run, replies=(reply("one"), reply("two")))
    first, second = trace(run.folder.plan.variants[0], twice, "0" * 32, {}).spans
    roles = [one["role"] for one in cast(Any, first.inputs)["messages"]]
    assert (roles[0], roles[-1]) == ("system", "user")
    assert "not kept" in str(second.inputs)
    assert (first.outputs, second.outputs) == ("one", "two")


def test_a_run_without_its_report_is_not_logged(tmp_path: Path) -> None:
    bare = made_run(tmp_path / "run", {"a": right}, cases=CASES[:2])
    with pytest.raises(BadInput, match=r"report\.html: is not there; make it by: python -m evals rescore"):
        log_run_folder(bare.folder, bare.table, compute_results(bare.folder, bare.table))


# --- in a store ------------------------------------------------------------------------------------------

needs_mlflow = pytest.mark.slow  # it is imported in two seconds and makes its first database in six


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture(scope="module")
def logged(store: str, run: Run) -> dict[str, LoggedRun]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MLFLOW_TRACKING_URI", store)
        environment.setenv("OPENAI_API_KEY", KEY)
        environment.setattr("evals.logged_rows.SAMPLED", 60)  # so that every answer of this small run has a trace
        return log_run_folder(run.folder, run.table, write_results(run.folder, run.table))


@pytest.fixture(scope="module")
def client(store: str, logged: dict[str, LoggedRun]) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=store)


def artifact(client: Any, one: LoggedRun, path: str) -> Path:
    return Path(client.download_artifacts(one.run_id, path))


@needs_mlflow
def test_each_variant_is_a_finished_run_with_its_samples_report_worst_and_dataset(
    run: Run, logged: dict[str, LoggedRun], client: Any, results: Results
) -> None:
    assert list(logged) == ["mixed", "wrong"]
    for name, one in logged.items():
        stored = client.get_run(one.run_id)
        assert (stored.info.status, stored.info.run_name) == ("FINISHED", f"made/{name}")
        assert metrics(results, name).items() <= stored.data.metrics.items()
        table = parquet.read_table(artifact(client, one, "samples.parquet"))
        assert table.num_rows == stored.data.metrics["samples"] == 24
        assert artifact(client, one, "report.html").read_text() == "<html>the report</html>"
        assert artifact(client, one, "cases.jsonl").read_bytes() == (run.folder.path / "cases.jsonl").read_bytes()
        (used,) = stored.inputs.dataset_inputs
        assert (used.dataset.digest, json.loads(used.dataset.profile)) == (
            run.folder.plan.cases_digest,
            {"num_rows": 12},
        )
    worst = json.loads(artifact(client, logged["mixed"], "worst.json").read_text())
    assert len(worst["data"]) == 22
    assert worst["columns"][0] == "asked"


@needs_mlflow
def test_variants_of_one_prompt_share_its_version_and_are_linked_to_it(
    logged: dict[str, LoggedRun], client: Any
) -> None:
    linked = [client.get_run(one.run_id).data.tags["mlflow.linkedPrompts"] for one in logged.values()]
    assert [json.loads(one) for one in linked] == [[{"name": "plumbline-write", "version": "1"}]] * 2
    assert client.get_run(logged["mixed"].run_id).data.params["prompt_uri"] == "prompts:/plumbline-write/1"
    assert client.load_prompt("prompts:/plumbline-write/1").template == prompt_text(load_prompt("write"))


@needs_mlflow
def test_traces_are_the_failures_and_the_drawn_with_what_was_asked_said_and_scored(
    run: Run, logged: dict[str, LoggedRun], client: Any
) -> None:
    experiment = client.get_experiment_by_name(record.EXPERIMENT).experiment_id
    found = client.search_traces(locations=[experiment], run_id=logged["mixed"].run_id, max_results=100)
    kinds = [one.info.tags["plumbline.kind"] for one in found]
    assert (kinds.count("failure"), kinds.count("drawn")) == (2, 22)
    states = {(one.info.tags["plumbline.kind"], str(one.info.state.value)) for one in found}
    assert states == {("failure", "ERROR"), ("drawn", "OK")}
    odd = next(one for one in found if one.info.tags["plumbline.case"] == CASES[1].id)
    assert odd.data.spans[0].outputs["decided"] == "is no JSON"
    assert {"the rules", "right"} <= set(odd.data.spans[0].outputs)
    assert odd.data.spans[1].outputs == ODD.replace("\0", "?")
    roles = [one["role"] for one in odd.data.spans[1].inputs["messages"]]
    assert (roles[0], roles[-1]) == ("system", "user")
    said = {one.name: one.feedback.value for one in odd.info.assessments}
    scored = next(one for one in rows(run.folder) if one.case.id == CASES[1].id)
    assert said == {name: score["value"] for name, score in scored.scores.items()}


@needs_mlflow
def test_nothing_stored_holds_the_key(logged: dict[str, LoggedRun], store: str) -> None:
    for path in Path(store.removeprefix("sqlite:///")).parent.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes()


@needs_mlflow
def test_a_storm_of_failures_leaves_a_bounded_number_of_traces_and_says_so(
    store: str,
    logged: dict[str, LoggedRun],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setattr("evals.logged_rows.MOST_FAILED", 3)
    storm = made_run(tmp_path / "run", {"down": failed}, cases=CASES)
    (storm.folder.path / "report.html").write_text("")
    log_run_folder(storm.folder, storm.table, write_results(storm.folder, storm.table))
    assert "down: traces of 3 failures are in MLflow, 9 were left out" in capsys.readouterr().err


@needs_mlflow
@pytest.mark.parametrize(
    ("lose", "said"),
    [
        ("tracking.runs._parquet_rows", "samples.parquet holds 11 rows of 12"),
        ("tracking.traces.TraceLog.count", "holds 11 traces of 12"),
    ],
)
def test_what_the_store_lost_is_noticed(
    store: str, logged: dict[str, LoggedRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lose: str, said: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setattr(lose, lambda *_: 11)
    one = made_run(tmp_path / "run", {"a": right}, cases=CASES)
    (one.folder.path / "report.html").write_text("")
    with pytest.raises(CannotJudge, match=said):
        log_run_folder(one.folder, one.table, write_results(one.folder, one.table))


# --- over MLflow's server --------------------------------------------------------------------------------


@needs_mlflow
def test_a_run_goes_through_a_server_as_it_does_into_a_file(
    run: Run,
    results: Results,
    store: str,
    logged: dict[str, LoggedRun],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow.tracking import MlflowClient

    database = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with running_server(database, tmp_path / "kept") as base_url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", base_url)
        (tmp_path / "temporary").mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
        remote = log_run_folder(run.folder, run.table, results)
        assert list((tmp_path / "temporary").iterdir()) == []  # what was read back from the server is gone
        there, here = MlflowClient(tracking_uri=base_url), MlflowClient(tracking_uri=store)
        for name, one in remote.items():
            assert one.tracking_uri == base_url
            data = [client.get_run(which[name].run_id).data for client, which in ((there, remote), (here, logged))]
            assert data[0].params == data[1].params
            assert data[0].metrics == data[1].metrics
            assert parquet.read_metadata(artifact(there, one, "samples.parquet")).num_rows == 24
            assert {path.name for path in (tmp_path / "kept").rglob(f"{one.run_id}/artifacts/*")} == {
                "cases.jsonl",
                "policy.yaml",
                "prompt.yaml",
                "report.html",
                "samples.parquet",
                "worst.json",
            }
