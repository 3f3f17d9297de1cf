"""MLflow's prompt registry: a text has one version however often it is registered, and is kept as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.console import CannotJudge
from tracking import prompts
from tracking.prompts import RegisteredPrompt, register_prompt
from tracking.runs import RunContent, digest, log_run

ROOT = Path(__file__).parents[2]
EXPERIMENT = "asked"
TEXT = "name: é\nuser: |\n  {{ facts }}\n  {% if label %}{{ label.value }}{% endif %} \u2028 {single} 試験 '\"`\\  \n\n"

pytestmark = pytest.mark.slow  # MLflow makes its first database in six seconds


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as environment:
        uri = f"sqlite:///{tmp_path_factory.mktemp('prompts') / 'mlflow.db'}"
        environment.setenv("MLFLOW_TRACKING_URI", uri)
        yield uri


@pytest.fixture(scope="module")
def client(store: str) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=store)


def test_a_text_is_kept_as_it_is_with_its_tags(client: Any) -> None:
    made = register_prompt(EXPERIMENT, "plumbline-kept", TEXT, {"form": "standard"})
    assert made == RegisteredPrompt("plumbline-kept", 1)
    stored = client.load_prompt(made.uri)
    assert stored.template == TEXT
    assert stored.tags["form"] == "standard"


def test_the_same_text_keeps_its_version_and_another_gets_the_next(client: Any) -> None:
    versions = [
        register_prompt(EXPERIMENT, "plumbline-versions", text, {}).version for text in ("a", "b", "a", "a ", "b")
    ]
    assert versions == [1, 2, 1, 3, 2]
    assert len(client.search_prompt_versions("plumbline-versions")) == 3


@pytest.mark.parametrize("name", ["naïve prompt/x", "a' OR name != '", "試験", "../up", "x" * 200])
def test_any_name_becomes_one_that_mlflow_takes(store: str, name: str) -> None:
    made = register_prompt(EXPERIMENT, f"plumbline-{name}", "text", {})
    assert made.name.isascii()
    assert made == register_prompt(EXPERIMENT, f"plumbline-{name}", "text", {})


def test_a_run_is_linked_as_mlflows_own_call_links_it(client: Any, monkeypatch: pytest.MonkeyPatch, store: str) -> None:
    import mlflow

    made = register_prompt(EXPERIMENT, "plumbline-linked", TEXT, {})
    ours = log_run(EXPERIMENT, RunContent("ours", tags=made.run_tags))
    theirs = log_run(EXPERIMENT, RunContent("theirs"))
    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", store)
    client.link_prompt_version_to_run(theirs.run_id, made.uri)
    tags = [client.get_run(run.run_id).data.tags["mlflow.linkedPrompts"] for run in (ours, theirs)]
    assert tags[0] == tags[1]


def test_the_experiments_page_lists_it_also_when_another_does(client: Any) -> None:
    register_prompt("first", "plumbline-listed", TEXT, {})
    register_prompt("second", "plumbline-listed", TEXT, {})
    for experiment in ("first", "second"):
        number = client.get_experiment_by_name(experiment).experiment_id
        found = client.search_prompts(filter_string=f"experiment_id = '{number}'")
        assert "plumbline-listed" in [prompt.name for prompt in found]


def test_processes_that_register_at_once_mean_the_same_version(store: str, client: Any) -> None:
    register_prompt(EXPERIMENT, "plumbline-warm", TEXT, {})  # the database is made
    program = (
        "from tracking.prompts import register_prompt; import sys; sys.stdin.readline()\n"
        "print(register_prompt('asked', 'plumbline-raced', 'text', {}).uri)"
    )
    racing = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=dict(os.environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for one in racing:
        assert one.stdin
        one.stdin.write("go\n")
        one.stdin.flush()
    said = [one.communicate(timeout=120) for one in racing]
    assert [out for out, _ in said] == ["prompts:/plumbline-raced/1\n"] * 3, said
    again = register_prompt(EXPERIMENT, "plumbline-raced", "text", {})
    assert again.version == 1


def test_a_prompt_that_another_process_made_in_between_is_used(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = prompts._version_of
    raced: list[str] = []

    def version_of(client: Any, name: str, text: str) -> int | None:
        found = kept(client, name, text)
        if not raced:
            raced.append(name)
            client.create_prompt(name)
            client.create_prompt_version(name, text, tags={"plumbline.digest": digest(text)})
        return found

    monkeypatch.setattr(prompts, "_version_of", version_of)
    assert register_prompt(EXPERIMENT, "plumbline-between", "text", {}).version == 1


def test_an_experiment_that_another_process_added_in_between_is_no_error(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    kept = MlflowClient.set_prompt_tag

    def raced(self: Any, name: str, key: str, value: str) -> None:
        kept(self, name, key, value)
        raise MlflowException("UNIQUE constraint failed")

    monkeypatch.setattr(MlflowClient, "set_prompt_tag", raced)
    assert register_prompt(EXPERIMENT, "plumbline-tagged", "text", {}).version == 1
    monkeypatch.setattr(MlflowClient, "set_prompt_tag", lambda *_: raced(client, "plumbline-tagged", "other", "x"))
    with pytest.raises(CannotJudge, match="UNIQUE constraint failed"):
        register_prompt(EXPERIMENT, "plumbline-untagged", "text", {})


def test_a_store_that_changes_the_text_is_noticed(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    kept = MlflowClient.create_prompt_version
    monkeypatch.setattr(
        MlflowClient, "create_prompt_version", lambda self, name, text, **more: kept(self, name, text.strip(), **more)
    )
    with pytest.raises(CannotJudge, match="did not keep the prompt 'plumbline-cut' as it was sent"):
        register_prompt(EXPERIMENT, "plumbline-cut", " text ", {})


def test_nothing_is_made_in_the_working_folder(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    register_prompt(EXPERIMENT, "plumbline-elsewhere", TEXT, {})
    assert list(tmp_path.iterdir()) == []
