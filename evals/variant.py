"""A variant: one way to ask, of all the ways a suite compares."""

from __future__ import annotations

from agents.asking.variant import PromptVariant
from agents.labels.policy import Policy
from common.strict import Name, Strict


class ServedModel(Strict):
    """A model where it is served. The key is not here: it comes from the environment when it is asked."""

    name: Name
    """What tables call it."""
    base_url: str
    model: str
    """The id the endpoint serves it under."""
    simulated: bool
    """True when its answers are the simulator's: they say nothing about a model."""


class Variant(Strict):
    """A prompt (with its sampling) x model x policy; repeats are samples of the same variant."""

    name: Name
    """The axes that the suite has more than one value of, joined by `/`: `write/smollm2`. Unique in a run."""
    prompt: PromptVariant
    """With the suite's sampling and parameters already in it."""
    sampling_name: Name = "as prompt"
    """Which entry of the suite's `sampling` that was."""
    model: ServedModel
    policy: Policy
