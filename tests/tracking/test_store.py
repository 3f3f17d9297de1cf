"""Reaching a store: where its artifacts go, and what is said when it cannot be reached."""

from __future__ import annotations

import pytest

from tracking.store import LOCAL_STORE, _reason, artifact_location

URI = "postgresql://me:hunter2@127.0.0.1/db"


@pytest.mark.parametrize(
    ("module", "brings"), [("psycopg", "psycopg[binary]"), ("psycopg2", "psycopg2-binary"), ("pymysql", "pymysql")]
)
def test_a_missing_driver_is_told_with_the_command_that_brings_it(module: str, brings: str) -> None:
    said = _reason(ModuleNotFoundError(f"No module named {module!r}", name=module), URI)
    assert said == f"its driver is not installed; install it with `.venv/bin/pip install '{brings}'`"


def test_another_missing_module_is_told_as_it_is() -> None:
    assert _reason(ModuleNotFoundError("No module named 'x'", name="x"), URI) == "No module named 'x'"


def test_an_error_that_quotes_the_address_does_not_tell_its_password() -> None:
    said = _reason(OSError(f"cannot connect to {URI}\nafter 3 tries"), URI)
    assert said == "cannot connect to postgresql://127.0.0.1/db after 3 tries"


@pytest.mark.parametrize(
    ("uri", "location"),
    [
        ("sqlite:////data/runs/mlflow.db", "file:///data/runs/artifacts/e"),
        ("postgresql://h/db", f"{LOCAL_STORE.as_uri()}/artifacts/e"),
        ("mysql+pymysql://h/db", f"{LOCAL_STORE.as_uri()}/artifacts/e"),
        ("http://h:5000", None),
        ("https://h", None),
        ("databricks", None),
    ],
)
def test_artifacts_never_go_to_the_working_folder(
    monkeypatch: pytest.MonkeyPatch, uri: str, location: str | None
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert artifact_location("e") == location
