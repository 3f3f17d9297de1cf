"""Policies: the numbers behind the labels, as YAML presets that can be read, argued about and changed one by one.

Labels are never the model's, and a label that cannot be known is UNKNOWN with the reason, never the mildest one. The
rules themselves are pure functions of metrics and a policy; each stands in its specialist's folder.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from hashlib import sha256
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from agents.facts.spec import PipelineSpec
from agents.labels.policy_file import DEFAULT_POLICY, load_policy, policy_names
from agents.labels.policy_model import ApprovalRules, Policy, PriorityRules, SeverityRules
from common.console import BadInput, shorten
from common.located import describe

__all__ = [
    "BLOCKS",
    "DEFAULT_POLICY",
    "Policy",
    "load_policy",
    "policy_for",
    "policy_names",
    "with_settings",
]

_LONGEST_SETTING = 200
_LONGEST_NAME = 160
"""Of a changed policy; a policy's name may have 200 characters."""

Scalar = str | int | float | bool | None
Change = tuple[str, Scalar]
"""A dotted key and what it becomes; None for a block switches its rule off."""


def policy_for(spec: PipelineSpec, policy: Policy) -> Policy:
    """A pipeline's own policy: its preset, or the run's with its changes; the run's where it has none.

    It may make labels and approvals stricter than the run's and never milder: see registry.labels_for, ask_below_for.

    Raises BadInput that names ``policy.<key>``.
    """
    if spec.policy is None:
        return policy
    if isinstance(spec.policy, str):
        return _preset(spec.policy)
    changes = tuple(_flat(spec.policy, ""))
    return _remembered(policy, tuple((key, type(value), value) for key, value in changes))


def with_settings(policy: Policy, settings: Sequence[str]) -> Policy:
    """A policy with changes as the command line gives them: ``priority.cpu.high=75``, ``priority.disk=null``.

    Where a key comes twice the last one holds. Raises BadInput that names the setting.
    """
    return _changed(policy, [_setting(text) for text in settings], "--set ")


def ask_below_for(policy: Policy, own: Policy) -> float | None:
    """The stricter of the run's and the pipeline's own `approval.ask_below`."""
    known = [one.approval.ask_below for one in (policy, own) if one.approval.ask_below is not None]
    return max(known, default=None)


# --- changes ---------------------------------------------------------------------------------------------


def _keys(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, type[BaseModel] | None]]:
    """Every dotted key below a model, each with the block that stands there, or None for a single value."""
    for name, field in model.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        block = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        yield f"{prefix}{name}", block
        if block:
            yield from _keys(block, f"{prefix}{name}.")


_PARTS: dict[str, type[BaseModel]] = {
    "severity": SeverityRules,
    "priority": PriorityRules,
    "approval": ApprovalRules,
}
_KEYS: dict[str, type[BaseModel] | None] = {
    **_PARTS,
    **{key: block for part, model in _PARTS.items() for key, block in _keys(model, f"{part}.")},
}
BLOCKS = tuple(key for key, block in _KEYS.items() if block and key not in ("severity", "priority"))
"""Every rule of a policy by its dotted key, in the order of the files."""


@cache
def _preset(name: str) -> Policy:
    """A pipeline's own preset. By name only: what a pipeline file says is never used as a path."""
    if name not in policy_names():
        known = ", ".join(policy_names())
        raise BadInput(
            f"policy: found {shorten(name, 80)!r}; allowed: {known}, or changes such as priority.cpu.high: 75"
        )
    return load_policy(name)


def _setting(text: str) -> Change:
    key, equals, value = text.partition("=")
    if not equals or len(text) > _LONGEST_SETTING:
        raise BadInput(f"--set {shorten(text, 80)}: allowed: KEY=VALUE, such as priority.cpu.high=75")
    key = key.strip()
    _known(key, "--set ")
    try:
        # A tag (!!int) is no part of any value, and the safe loader's constructors fail on one in many ways.
        found = value if "!" in value else yaml.load(value, yaml.CSafeLoader)
    except (yaml.YAMLError, ValueError):
        found = value
    return key, _scalar(found, f"--set {key}")


def _flat(changes: Mapping[Any, Any], prefix: str) -> Iterator[Change]:
    """The single changes in a pipeline's mapping, in which keys may be dotted or nested."""
    for name, value in changes.items():
        key = f"{prefix}{name}"
        if _known(key, "policy.") and isinstance(value, Mapping):
            yield from _flat(value, f"{key}.")
        else:
            yield key, _scalar(value, f"policy.{key}")


def _known(key: str, prefix: str) -> type[BaseModel] | None:
    """The block at a dotted key, None where a single value stands. Raises BadInput for a key that does not exist."""
    if key in _KEYS:
        return _KEYS[key]
    above = key.rpartition(".")[0]
    while above and not _KEYS.get(above):
        above = above.rpartition(".")[0]
    allowed = ", ".join(_KEYS[above].model_fields if above and _KEYS[above] else _PARTS)  # type: ignore[union-attr]
    raise BadInput(f"{prefix}{shorten(key, 80)}: unknown; allowed{f' in {above}' if above else ''}: {allowed}")


def _scalar(value: object, field: str) -> Scalar:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise BadInput(f"{field}: found {shorten(reprlib.repr(value), 80)}; allowed: a single value")


@lru_cache(maxsize=1024)
def _remembered(policy: Policy, changes: tuple[tuple[str, type, Scalar], ...]) -> Policy:
    """A pipeline's changes, kept: thousands of pipelines share a few. The type is in the key since 1 equals True."""
    return _changed(policy, [(key, value) for key, _, value in changes], "policy.")


def _changed(policy: Policy, changes: Iterable[Change], prefix: str) -> Policy:
    """The policy with changes, checked as a file would be; its name tells. Raises BadInput."""
    data = policy.model_dump()
    for key, value in changes:
        *parents, last = key.split(".")
        block = data
        for parent in parents:
            if not isinstance(block.get(parent), dict):
                block[parent] = {}  # the rule was off: the changes must bring all it needs
            block = block[parent]
        block[last] = value
    try:
        changed = Policy.model_validate(data)
    except ValidationError as error:
        raise BadInput(prefix + describe(error, Policy, "").removeprefix(": ")) from None
    return policy if changed == policy else changed.model_copy(update={"name": _name_with_changes(policy, changed)})


def _name_with_changes(policy: Policy, changed: Policy) -> str:
    """``standard (changed: priority.cpu.high=60)``: which numbers are others, under the keys that ``--set`` takes.

    Where that is too long it is cut, and a digest of all numbers tells two of them apart.
    """
    before, after = (dict(_numbers(one.model_dump(include=set(_PARTS)), "")) for one in (policy, changed))
    others = [f"{key}={_shown(value)}" for key, value in after.items() if key not in before or before[key] != value]
    name = f"{policy.name} (changed: {', '.join(others)})"
    if len(name) <= _LONGEST_NAME:
        return name
    digest = sha256(changed.model_dump_json(include=set(_PARTS)).encode()).hexdigest()[:8]
    return f"{name[: _LONGEST_NAME - 20]}… all: #{digest})"


def _numbers(dump: Mapping[str, Any], prefix: str) -> Iterator[Change]:
    """Every number of a dumped policy by its dotted key; None where a rule is off."""
    for name, value in dump.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _shown(value: Scalar) -> str:
    return "null" if value is None else repr(value).removesuffix(".0")
