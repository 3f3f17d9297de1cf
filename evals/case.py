"""A case: one pipeline, one stage, and which decisions about it are right, wrong or harmful."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from agents.facts.spec import PipelineSpec
from agents.labels.label import UNKNOWN
from agents.specialists.oracle import Difficulty, Group
from agents.specialists.registry import Stage, specialist_of
from agents.specialists.specialist import Specialist
from common.console import BadInput, shorten
from common.located import describe
from common.strict import Name, Strict

CURATED = Path(__file__).parent / "cases" / "curated.jsonl"
"""The cases kept in the repository."""


class Case(Strict):
    """One question with a known answer."""

    id: Name
    row: int | None = Field(None, ge=1)
    """Row of the oracle table (docs/oracle.md) the case was made from; None for a case of one's own."""
    family: Name
    """Cases of one family are related: intervals resample whole families. Generated: one a row, such as `row-07`."""
    source: str
    """Where the truth comes from, as the oracle table names it."""
    stage: Stage
    spec: PipelineSpec
    difficulty: Difficulty = "medium"
    pair: Name | None = None
    """The id of its near miss: the case that differs in one fact, which flips the right answer."""
    right_choices: tuple[str, ...] = Field((), strict=False)
    """Values of the specialist's choice that are right."""
    wrong_choices: tuple[str, ...] = Field((), strict=False)
    """Values that are wrong; those in neither are debatable and do not count."""
    acceptable_labels: tuple[str, ...] = Field((), strict=False)
    """Labels that are right, whatever policy gives them; empty for a specialist without one."""
    right_actions: tuple[Group, ...] = Field((), strict=False)
    """Needs that a good decision meets, each by any one action of its group."""
    harmful_actions: tuple[str, ...] = Field((), strict=False)
    """Actions that do harm here; those in neither are neither asked for nor held against an answer."""
    of: Name | None = None
    """The id of the case that this one was made from by `relation`."""
    relation: Name | None = None
    """The metamorphic relation (evals/metamorphic.py) between the two; such a case counts in no leaderboard."""

    @field_validator("right_choices", "wrong_choices")
    @classmethod
    def _of_the_choice(cls, values: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if specialist := _specialist(info):
            _only(values, specialist.choice.values)
        return _not_in(values, "right_choices", info.data.get("right_choices", ()))

    @field_validator("acceptable_labels")
    @classmethod
    def _of_the_label(cls, values: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if specialist := _specialist(info):
            _only(values, (*specialist.label.levels, UNKNOWN) if specialist.label else ())
        return values

    @field_validator("right_actions")
    @classmethod
    def _groups_of_the_catalogue(cls, groups: tuple[Group, ...], info: ValidationInfo) -> tuple[Group, ...]:
        if not all(groups):
            raise ValueError("found an empty group; allowed: one action or more in each")
        if specialist := _specialist(info):
            _only([action for group in groups for action in group], specialist.actions_by_id)
        return groups

    @field_validator("harmful_actions")
    @classmethod
    def _of_the_catalogue(cls, values: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if specialist := _specialist(info):
            _only(values, specialist.actions_by_id)
        right = [action for group in info.data.get("right_actions", ()) for action in group]
        return _not_in(values, "right_actions", right)


def _specialist(info: ValidationInfo) -> Specialist | None:
    """Whose choice and catalogue hold; None where the stage itself was refused."""
    return specialist_of(info.data["stage"]) if "stage" in info.data else None


def _only(values: Iterable[str], allowed: Collection[str]) -> None:
    for value in values:
        if value not in allowed:
            raise ValueError(f"found {shorten(value, 60)!r}; allowed: {', '.join(allowed) or 'none'}")


def _not_in(values: tuple[str, ...], other: str, taken: Collection[str]) -> tuple[str, ...]:
    if twice := next((value for value in values if value in taken), None):
        raise ValueError(f"found {twice!r}, which stands in {other} too")
    return values


def curated_cases() -> list[Case]:
    """The cases that come with Plumbline: checked by hand, every row of the oracle table among them."""
    return load_cases(CURATED)


def load_cases(path: Path) -> list[Case]:
    """Cases from a JSONL file, one a line. Raises BadInput naming file, line and field."""
    cases: dict[str, Case] = {}
    lines: dict[str, int] = {}
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        case = _read(line, f"{path}:{number}")
        if case.id in cases:
            raise BadInput(
                f"{path}:{number}: id: {shorten(case.id, 80)!r} stands in line {lines[case.id]} too; ids must differ"
            )
        cases[case.id], lines[case.id] = case, number
    if not cases:
        raise BadInput(f"{path}: holds no case")
    for case in cases.values():
        if problem := _loose_end(case, cases):
            raise BadInput(f"{path}:{lines[case.id]}: {problem}")
    return list(cases.values())


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8-sig").split("\n")  # not splitlines(): JSON strings may hold U+2028
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: is not UTF-8 text (byte {error.start})") from None


def _read(line: str, where: str) -> Case:
    try:
        return Case.model_validate_json(line)
    except ValidationError as error:
        lacks_family = any(one["type"] == "missing" and one["loc"] == ("family",) for one in error.errors())
        hint = "; family names the cases that are related, such as those of one system" if lacks_family else ""
        raise BadInput(describe(error, Case, where) + hint) from None


def _loose_end(case: Case, cases: Mapping[str, Case]) -> str | None:
    """What is wrong with the ids that a case names."""
    for field, named in (("pair", case.pair), ("of", case.of)):
        if named is not None and (named == case.id or named not in cases):
            return f"{field}: found {shorten(named, 80)!r}; must be the id of another case in this file"
    if case.pair is not None and (back := cases[case.pair].pair) != case.id:
        told = "none" if back is None else repr(shorten(back, 80))
        return f"pair: {shorten(case.pair, 80)!r} names {told} as its own pair; two cases of a pair name each other"
    return None


def dump_cases(cases: Iterable[Case]) -> str:
    """Cases as JSONL; the same cases give the same bytes."""
    return "".join(case.model_dump_json(exclude_defaults=True) + "\n" for case in cases)
