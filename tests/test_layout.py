"""The folders own their names, and imports between them go one way."""

from __future__ import annotations

import ast
import importlib.metadata
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

MAY_IMPORT = {
    "common": set[str](),
    "serving": {"common"},
    "tracking": {"common"},
    "agents": {"common", "serving", "tracking"},
    "evals": {"common", "serving", "tracking", "agents"},
    "load_tests": {"common", "serving", "tracking", "agents", "evals"},
}
"""Each part to the parts of ours it may import; itself is always allowed."""

MODULES = [path for name in MAY_IMPORT for path in sorted((ROOT / name).rglob("*.py"))]


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text("utf8"))))


def imported(path: Path) -> set[str]:
    """First names of everything a module imports, wherever in it."""
    found = set()
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


def whole_names(path: Path) -> set[str]:
    """Full names of the modules a module imports from."""
    nodes = nodes_of(path)
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def importers(name: str) -> set[str]:
    return {str(path.relative_to(ROOT)) for path in MODULES if name in imported(path)}


@pytest.mark.slow
def test_no_installed_package_takes_our_names() -> None:
    """openai-agents installs a top-level `agents`, OpenAI's evals an `evals`; two owners of one name break imports."""
    assert set(MAY_IMPORT) & set(importlib.metadata.packages_distributions()) == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    part = part_of(path)
    ours = imported(path) & set(MAY_IMPORT)
    assert ours <= MAY_IMPORT[part] | {part}


ROOMS = ("facts", "labels", "specialists", "asking", "deciding", "reports", "cli")
"""Of agents/: each may import from itself and from those before it."""


@pytest.mark.parametrize(
    "path", sorted((ROOT / "agents").rglob("*/*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_the_rooms_of_agents_import_one_way(path: Path) -> None:
    room = path.relative_to(ROOT / "agents").parts[0]
    wanted = {name.split(".")[1] for name in whole_names(path) if name.startswith("agents.")} & set(ROOMS)
    assert {one for one in wanted if ROOMS.index(one) > ROOMS.index(room)} == set()


def test_the_table_of_imports_has_no_circle() -> None:
    order = list(MAY_IMPORT)
    assert all(order.index(wanted) < order.index(part) for part, may in MAY_IMPORT.items() for wanted in may)


def test_every_part_has_modules_to_look_at() -> None:
    assert {part_of(path) for path in MODULES} == set(MAY_IMPORT)


def test_only_tracking_imports_mlflow() -> None:
    assert {path.split("/")[0] for path in importers("mlflow")} == {"tracking"}


def test_locust_is_imported_by_the_locustfile_and_its_two_parts_alone() -> None:
    """Importing locust patches the standard library for gevent, so nobody else may import these three."""
    parts = {"load_tests/conductor.py", "load_tests/worker_part.py"}
    assert importers("locust") == {"load_tests/locustfile.py"} | parts
    wanted = {part.removesuffix(".py").replace("/", ".") for part in parts}
    users = {str(path.relative_to(ROOT)) for path in MODULES if wanted & whole_names(path)}
    assert users <= {"load_tests/locustfile.py"} | parts


def test_vllm_is_started_and_never_imported() -> None:
    assert importers("vllm") == set()


def test_no_load_test_module_hides_one_of_the_standard_library() -> None:
    """Locust puts the locustfile's folder first on the path."""
    names = {path.stem for path in (ROOT / "load_tests").glob("*.py")} - {"__init__", "__main__"}
    assert names & set(sys.stdlib_module_names) == set()


def test_no_agents_module_has_a_name_that_mlflow_would_import() -> None:
    """`mlflow.openai.autolog()` does `from agents.run import ...` and would run ours."""
    assert not {"run", "tracing"} & {path.stem for path in (ROOT / "agents").glob("*.py")}
