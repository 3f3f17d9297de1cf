"""Catalogues of actions: YAML files beside each specialist, and files of the user's own."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from agents.specialists.specialist import Action
from common.console import BadInput
from common.located import load_yaml_model
from common.strict import Name, Strict


class Catalogue(Strict):
    """One file of actions."""

    specialist: Name
    actions: tuple[Action, ...] = Field(min_length=1, strict=False)


def load_catalogue(path: Path) -> Catalogue:
    """The actions of a file. Raises BadInput naming file, line and field."""
    return load_yaml_model(path, Catalogue)


def packaged(folder: Path, specialist: str) -> tuple[Action, ...]:
    """The actions.yaml of a specialist's folder. Raises BadInput when it is not that specialist's."""
    path = folder / "actions.yaml"
    found = load_catalogue(path)
    if found.specialist != specialist:
        raise BadInput(f"{path}: specialist: found {found.specialist!r}; must be {specialist!r}")
    return found.actions
