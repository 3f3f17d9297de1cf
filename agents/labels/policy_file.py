"""Policy files: the presets that come with Plumbline, and files of the user's own, whole or on a preset's numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import field_validator, model_validator

from agents.labels.policy_model import Policy
from common.console import shorten
from common.located import load_preset, merged, preset_names
from common.strict import Name

POLICIES_DIR = Path(__file__).parent / "policies"
DEFAULT_POLICY = "standard"


def policy_names() -> list[str]:
    """The presets that come with Plumbline, sorted."""
    return preset_names(POLICIES_DIR)


def load_policy(name: str) -> Policy:
    """A preset by name, or the policy in a YAML file. Raises BadInput."""
    file = load_preset("policy", POLICIES_DIR, name, PolicyFile)
    return Policy.model_validate(file.model_dump(exclude={"base"}))


class PolicyFile(Policy):
    """A policy as a file writes it."""

    base: Name | None = None
    """The preset whose numbers hold where the file says nothing; by name only, never a path."""

    @model_validator(mode="before")
    @classmethod
    def _on_its_base(cls, data: Any) -> Any:
        base = data.get("base") if isinstance(data, dict) else None
        if base is None:
            return data
        # A base that is not known is refused below; without numbers it would be hidden by all that is missing.
        known = base if base in policy_names() else DEFAULT_POLICY
        return merged(load_policy(known).model_dump(include={"severity", "priority", "approval"}), data)

    @field_validator("base")
    @classmethod
    def _is_a_preset(cls, base: str | None) -> str | None:
        if base is not None and base not in policy_names():
            raise ValueError(f"found {shorten(base, 80)!r}; allowed: {', '.join(policy_names())}")
        return base
