"""Changes to a request's parameters, so that a server that knows other ones can be asked too.

OpenAI's newest models take `max_completion_tokens` in place of `max_tokens`, others refuse `seed` or `logprobs`, and
engines know parameters of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Self

from pydantic import Field, field_validator

from common.strict import Strict

Key = Annotated[str, Field(min_length=1, max_length=100)]

FIXED = ("model", "messages", "stream")
"""What makes a request what it is, and may not be changed here."""


class Parameters(Strict):
    """What is changed in every request's body: first renamed, then added, then left out."""

    rename: dict[Key, Key] = Field(default_factory=dict)
    """``{max_tokens: max_completion_tokens}``; a parameter that a request does not hold is not made up."""
    add: dict[Key, Any] = Field(default_factory=dict)
    """``{top_k: 5}``; takes the place of a parameter that is there."""
    leave_out: tuple[Key, ...] = Field((), strict=False)
    """By the name before or after renaming."""

    @field_validator("rename", "add", "leave_out")
    @classmethod
    def _nothing_fixed(cls, found: Any) -> Any:
        names = [*found, *found.values()] if cls._is_renaming(found) else list(found)
        if fixed := [name for name in FIXED if name in names]:
            raise ValueError(f"{fixed[0]!r} belongs to every request and cannot be changed")
        return found

    @staticmethod
    def _is_renaming(found: object) -> bool:
        return isinstance(found, dict) and all(isinstance(value, str) for value in found.values())

    def merged_with(self, other: Parameters) -> Self:
        """These with another's changes over them."""
        return type(self)(
            rename={**self.rename, **other.rename},
            add=without({**self.add, **other.add}, other.leave_out),
            leave_out=tuple(
                dict.fromkeys([*(one for one in self.leave_out if one not in other.add), *other.leave_out])
            ),
        )


def adapted(body: dict[str, Any], parameters: Parameters) -> dict[str, Any]:
    """A request's body with these changes."""
    kept = without(body, parameters.leave_out)
    renamed = {parameters.rename.get(name, name): value for name, value in kept.items()}
    return without({**renamed, **parameters.add}, parameters.leave_out)


def without(found: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The same without these keys."""
    out = set(names)
    if "logprobs" in out:  # a server that takes none refuses a number of them too
        out.add("top_logprobs")
    return {key: value for key, value in found.items() if key not in out}
