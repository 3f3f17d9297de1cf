"""Where MLflow keeps things: a SQLite file under mlruns/, or what MLFLOW_TRACKING_URI says; and how it is reached."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from common.console import CannotJudge, shorten

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

REPOSITORY = Path(__file__).resolve().parent.parent
LOCAL_STORE = REPOSITORY / "mlruns"

_DRIVERS = {
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "pymysql": "pymysql",
    "MySQLdb": "mysqlclient",
    "pyodbc": "pyodbc",
}
"""Modules that SQLAlchemy asks for, and what brings them: MLflow comes with none but SQLite's."""


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, else the SQLite file under mlruns/."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{LOCAL_STORE / 'mlflow.db'}"


def ui_command() -> str:
    """The command that shows the store in a browser, on loopback."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return "make ui"
    if uri.startswith(("http://", "https://")):
        return f"open {without_password(uri)}"
    return f".venv/bin/mlflow server --host 127.0.0.1 --backend-store-uri {without_password(uri)}"


def database_path() -> Path | None:
    """The SQLite file the store is in; None for a server or another database."""
    found = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+)(?:\?.*)?", tracking_uri())
    return Path(found[1]) if found else None


def has_store() -> bool:
    """False only where the store would be a local file that nobody has made yet, which takes MLflow seconds."""
    database = database_path()
    return database is None or database.exists()


def without_password(uri: str) -> str:
    """A store's address fit to print: what stands between // and @, or behind a ?, may be a password."""
    if uri.startswith("sqlite:"):
        return uri
    scheme, mark, rest = uri.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}".partition("?")[0] if mark else uri


@contextmanager
def reaching(task: str) -> Iterator[str]:
    """The store's address, for as long as the block lasts.

    What MLflow raises in the block becomes CannotJudge: one line, without a password, that says the store did not do
    its `task` ("take the run") and why.
    """
    # Progress bars would break our own; and what is evaluated here is nobody else's business.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # MLflow's own 7 keep a person four minutes before they read that the server is down; 3 take twelve seconds.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    # One that swallows packets is waited for that long each time; MLflow's own 120 s would be eight minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    # Creating a database is not news to someone who waits for an evaluation; warnings still are. MLflow sets its
    # levels when it is imported, and alembic its own when the database is made.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    uri = tracking_uri()
    try:
        _check_openable()
        yield uri
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
        shown = without_password(uri)
        raise CannotJudge(f"MLflow at {shown} did not {task}: {_reason(error, uri)}") from None


def _reason(error: Exception, uri: str) -> str:
    """Why, in one line without a password; for a database whose driver is missing, how to get it."""
    if isinstance(error, ModuleNotFoundError) and error.name in _DRIVERS:
        return f"its driver is not installed; install it with `.venv/bin/pip install '{_DRIVERS[error.name]}'`"
    return shorten(str(error).replace(uri, without_password(uri)))


def experiment_id(client: MlflowClient, name: str) -> str:
    """The experiment of that name, made where there is none."""
    found = client.get_experiment_by_name(name)
    if found:
        return str(found.experiment_id)
    return str(client.create_experiment(name, artifact_location=artifact_location(name)))


def artifact_location(experiment: str) -> str | None:
    """Where a new experiment's artifacts go: beside a SQLite file, under mlruns/ with any other database.

    None where the store is a server, which knows by itself; a database alone would have them in the working folder.
    """
    if not re.match(r"(sqlite|postgresql|mysql|mssql)(\+\w+)?:", tracking_uri()):
        return None
    database = database_path()
    folder = database.resolve().parent if database else LOCAL_STORE
    return (folder / "artifacts" / experiment).as_uri()


def _check_openable() -> None:
    """Raise OSError or sqlite3.Error for a SQLite file that cannot be: MLflow would try it for a hundred seconds."""
    database = database_path()
    if database:
        database.parent.mkdir(parents=True, exist_ok=True)
        sqlite3.connect(database).close()
