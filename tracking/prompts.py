"""MLflow's prompt registry: the text a run asked with, under a name and a version that people can look up.

A text that is registered already keeps its version, so that a version says what was asked and not how often. What is
written goes by the client's plain calls: the fluent ones open a store of their own in the working folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.console import CannotJudge
from tracking.runs import digest
from tracking.store import experiment_id, reaching

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_DIGEST_TAG = "plumbline.digest"
_IS_PROMPT = "mlflow.prompt.is_prompt"
_TEXT = "mlflow.prompt.text"
_EXPERIMENTS = "_mlflow_experiment_ids"
_LINKED = "mlflow.linkedPrompts"


@dataclass(frozen=True)
class RegisteredPrompt:
    """One version of one prompt."""

    name: str
    version: int

    @property
    def uri(self) -> str:
        """What MLflow loads it by."""
        return f"prompts:/{self.name}/{self.version}"

    @property
    def run_tags(self) -> dict[str, str]:
        """Tags that link a run to it, as MLflow's own call would."""
        return {_LINKED: json.dumps([{"name": self.name, "version": str(self.version)}])}


def register_prompt(experiment: str, name: str, text: str, tags: Mapping[str, str]) -> RegisteredPrompt:
    """The version that holds exactly this text, made where there is none, and shown in the experiment.

    name: any characters; those MLflow does not take become `_`. tags: of the version. Raises CannotJudge when the store
    cannot be reached or does not keep the text as it is.
    """
    known = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    with reaching("register the prompt") as uri:
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        found = _version_of(client, known, text)
        if found is None:
            _create_prompt(client, known)
            client.create_prompt_version(known, text, tags={**tags, _DIGEST_TAG: digest(text)})
            found = _version_of(client, known, text)
        if found is None:
            raise CannotJudge(f"MLflow did not keep the prompt {known!r} as it was sent")
        _show_in(client, known, experiment_id(client, experiment))
    return RegisteredPrompt(known, found)


def _version_of(client: MlflowClient, name: str, text: str) -> int | None:
    """The first version with this text: two processes that register it at once then mean the same one."""
    alike = f"name = '{name}' AND tags.`{_IS_PROMPT}` = 'true' AND tags.`{_DIGEST_TAG}` = '{digest(text)}'"
    found = client.search_model_versions(alike)
    return min((int(one.version) for one in found if one.tags.get(_TEXT) == text), default=None)


def _create_prompt(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_prompt(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _show_in(client: MlflowClient, name: str, experiment: str) -> None:
    """Have MLflow's page of the experiment list the prompt; its search asks for `,ID,`."""
    from mlflow.exceptions import MlflowException

    listed = _listed_in(client, name)
    if experiment in listed:
        return
    try:
        client.set_prompt_tag(name, _EXPERIMENTS, f",{','.join([*listed, experiment])},")
    except MlflowException:
        # Two processes that add the tag at once: SQL lets one of them, which may have been the other.
        if experiment not in _listed_in(client, name):
            raise


def _listed_in(client: MlflowClient, name: str) -> list[str]:
    prompt = client.get_prompt(name)
    return [one for one in (prompt.tags if prompt else {}).get(_EXPERIMENTS, "").split(",") if one]
