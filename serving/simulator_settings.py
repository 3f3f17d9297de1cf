"""How the simulator is told to behave: its settings, each checked under the name of its option."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from common.console import BadInput
from serving.faults import Fault, is_hit


class DecisionsRoute(StrEnum):
    """What POST /v1/decisions does."""

    OFF = "off"
    """Status 404: there is no such route, as in vLLM before 0.33."""
    ON = "on"
    """Answers in OpenAI's form."""
    REFUSE_501 = "refuse-501"
    """Status 501, as vLLM says it of a model that is not in its table."""


@dataclass(frozen=True)
class SimulatorSettings:
    """How fast, how long and how well the simulator answers. Raises BadInput for what cannot be."""

    ttft_ms: float = 50.0
    """Start of the request to the first token's deadline; the mean, with `ttft_cv`."""
    itl_ms: float = 10.0
    """One token's deadline to the next one's; the mean, with `itl_cv`."""
    output_tokens: int = 64
    seed: int = 0
    model: str = "plumbline-simulator"
    fault: Fault = Fault.NONE
    fault_rate: float = 1.0
    """The share of chat completions that the fault hits, 0 to 1, chosen by seed and number of arrival."""
    fault_first: int | None = None
    """Only so many chat completions can be hit, the first to arrive: a storm that ends. None: it never does."""
    retry_after_s: int = 0
    """What Retry-After says with http-429."""
    ttft_cv: float = 0.0
    """Standard deviation over mean of the time to first token, lognormal (simulator_time.py); 0: always the mean."""
    itl_cv: float = 0.0
    """The same of each time between tokens."""
    tokens_per_chunk: int = 1
    """Tokens in a content chunk. As with vLLM's `--stream-interval`, the first token goes alone, so that TTFT stays;
    later chunks leave with their last token."""
    freeze_at_s: float = 0.0
    """When a freeze begins, after the arrival of the first chat completion."""
    freeze_for_s: float = 0.0
    """How long nothing is sent: what was due in it is due at its end, and later deadlines stay. 0: no freeze."""
    max_running: int | None = None
    """Requests that are worked on at once; others wait in order of arrival. None: as many as come."""
    max_queue: int | None = None
    """Requests that may wait; one more gets status 503. None: as many as come."""
    label_ids: bool = True
    """Whether labels can be read by token id, as vLLM lets it: POST /tokenize and `logprob_token_ids`. Without, the one
    is status 404 and the other ignored in silence, as other servers do."""
    decisions: DecisionsRoute = DecisionsRoute.OFF
    refused_parameters: tuple[str, ...] = ()
    """Chat completions that hold one of these keys get status 400, as from a model that does not support it."""

    def __post_init__(self) -> None:
        self._check_times()
        for option, count in (
            ("--output-tokens", self.output_tokens),
            ("--tokens-per-chunk", self.tokens_per_chunk),
            ("--max-running", self.max_running),
        ):
            if count is not None and count < 1:
                raise BadInput(f"{option}: found {count}; allowed is 1 or more")
        if not self.model.strip():
            raise BadInput(f"--model: found {self.model!r}; allowed is any name that is not blank")
        if not all(name.strip() for name in self.refused_parameters):
            raise BadInput("--refuse-parameter: found a blank name; allowed is any key of a request")
        self._check_queue()
        self._check_faults()

    def _check_times(self) -> None:
        for option, value, unit in (
            ("--ttft-ms", self.ttft_ms, " milliseconds"),
            ("--itl-ms", self.itl_ms, " milliseconds"),
            ("--ttft-cv", self.ttft_cv, ""),
            ("--itl-cv", self.itl_cv, ""),
            ("--freeze-at-s", self.freeze_at_s, " seconds"),
            ("--freeze-for-s", self.freeze_for_s, " seconds"),
        ):
            if not (math.isfinite(value) and value >= 0):
                raise BadInput(f"{option}: found {value:g}; allowed is 0 or more{unit}")
        if self.freeze_at_s and not self.freeze_for_s:
            raise BadInput("--freeze-at-s: says when a freeze begins; say how long it is with --freeze-for-s")

    def _check_queue(self) -> None:
        if self.max_queue is None:
            return
        if self.max_queue < 0:
            raise BadInput(f"--max-queue: found {self.max_queue}; allowed is 0 or more")
        if self.max_running is None:
            raise BadInput("--max-queue: nobody waits without --max-running; say how many may run")

    def _check_faults(self) -> None:
        if not 0 <= self.fault_rate <= 1:
            raise BadInput(f"--fault-rate: found {self.fault_rate:g}; allowed is 0 to 1")
        if self.fault_first is not None and self.fault_first < 0:
            raise BadInput(f"--fault-first: found {self.fault_first}; allowed is 0 or more")
        if self.retry_after_s < 0:
            raise BadInput(f"--retry-after-s: found {self.retry_after_s}; allowed is 0 or more")
        if self.fault is Fault.NONE and (self.fault_rate != 1 or self.fault_first is not None):
            raise BadInput("--fault-rate, --fault-first: say which requests fail; say how with --fault")

    def fault_of(self, number: int) -> Fault:
        """What goes wrong with the chat completion that arrived as number so and so, counted from 0."""
        return self.fault if is_hit(number, self.seed, self.fault_rate, self.fault_first) else Fault.NONE

    @property
    def knee_per_s(self) -> float | None:
        """The rate at which the queue begins to grow: max_running / (ttft + (output_tokens - 1) * itl).

        Requests that end sooner (a shorter max_tokens, most faults) raise it. None without `max_running`, and when
        a request takes no time.
        """
        service_ms = self.ttft_ms + (self.output_tokens - 1) * self.itl_ms
        return self.max_running * 1e3 / service_ms if self.max_running and service_ms else None
