"""What a machine's hardware makes of vLLM's arguments and environment."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from common.console import BadInput, CannotJudge
from serving.profiles import (
    Machine,
    ModelSize,
    container_bytes,
    cpu_profile,
    gpu_profile,
    model_size,
    one_per_core,
    resolve,
)

GIB = 1 << 30
TINY = ModelSize(weights_bytes=GIB // 4, kv_values_per_token=11_520, context=8192)
PLAIN = Machine(cpus=(0, 1), flags=frozenset({"avx2"}), memory_bytes=20 * GIB)


def argument(arguments: tuple[str, ...], name: str) -> str:
    return arguments[arguments.index(name) + 1]


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ({"avx2"}, "float32"),
        ({"avx2", "avx512f"}, "float32"),
        ({"avx512f", "avx512_bf16"}, "bfloat16"),
        ({"amx_bf16"}, "bfloat16"),
    ],
)
def test_bfloat16_is_used_only_where_the_cpu_multiplies_it(flags: set[str], dtype: str) -> None:
    machine = Machine(cpus=(0,), flags=frozenset(flags), memory_bytes=20 * GIB)
    assert argument(cpu_profile(machine, TINY).arguments, "--dtype") == dtype


def test_every_core_is_bound_and_the_engine_runs_eager() -> None:
    profile = cpu_profile(PLAIN, TINY)
    assert profile.environment["VLLM_CPU_OMP_THREADS_BIND"] == "0,1"
    assert "--enforce-eager" in profile.arguments


@pytest.mark.parametrize(
    ("free_gib", "kv_values", "flags", "kv_gib"),
    [
        (20, 11_520, {"avx2"}, 1),  # SmolLM2-135M: 64 x 384 x 11,520 x 4 bytes = 1.05 GiB
        (20, 114_688, {"avx2"}, 8),  # ten times that is 10.5 GiB; half of what is spare is 8
        (20, 57_344, {"avx2"}, 5),
        (20, 57_344, {"avx512_bf16"}, 3),
        (4.6, 114_688, {"avx2"}, 1),
    ],
)
def test_the_kv_cache_is_what_the_sequences_need_within_half_of_what_is_spare(
    free_gib: float, kv_values: int, flags: set[str], kv_gib: int
) -> None:
    machine = Machine(cpus=(0,), flags=frozenset(flags), memory_bytes=int(free_gib * GIB))
    profile = cpu_profile(machine, ModelSize(GIB // 4, kv_values, 8192))
    assert profile.environment["VLLM_CPU_KVCACHE_SPACE"] == str(kv_gib)


def test_the_size_of_a_model_is_read_off_its_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    config = {"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 576}
    (tmp_path / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2048}))
    assert model_size(tmp_path, 8192) == ModelSize(100, 2 * 30 * 3 * 64, 2048)


def test_too_little_memory_is_refused_before_anything_starts_and_says_how_much_is_needed() -> None:
    machine = Machine(cpus=(0,), flags=frozenset(), memory_bytes=4 * GIB)
    with pytest.raises(CannotJudge, match=r"no memory: .* need 4\.5 GiB, 4\.0 GiB are free: .* smaller --model"):
        cpu_profile(machine, TINY)


def test_the_context_is_bounded_but_never_longer_than_the_model_allows() -> None:
    for context, expected in ((2048, "2048"), (32768, "4096")):
        model = ModelSize(GIB // 4, 11_520, context)
        assert argument(cpu_profile(PLAIN, model).arguments, "--max-model-len") == expected
    assert argument(gpu_profile(32768).arguments, "--max-model-len") == "8192"


def test_usage_tells_what_came_from_the_prefix_cache() -> None:
    for profile in (cpu_profile(PLAIN, TINY), gpu_profile(8192)):
        assert "--enable-prompt-tokens-details" in profile.arguments


def test_a_cpu_keeps_prompts_in_blocks_that_it_can_work_on_and_no_longer() -> None:
    # vLLM's CPU attention wants multiples of 32; what two prompts share is found again in whole blocks alone.
    assert argument(cpu_profile(PLAIN, TINY).arguments, "--block-size") == "32"
    assert "--block-size" not in gpu_profile(8192).arguments


def test_libraries_found_are_preloaded_and_a_missing_tcmalloc_is_hinted_at() -> None:
    both = Machine((0,), frozenset(), 20 * GIB, preload=("/lib/libtcmalloc_minimal.so.4", "/env/lib/libiomp5.so"))
    profile = cpu_profile(both, TINY)
    assert profile.environment["LD_PRELOAD"] == "/lib/libtcmalloc_minimal.so.4:/env/lib/libiomp5.so"
    assert not profile.hints
    assert any("tcmalloc" in hint for hint in cpu_profile(PLAIN, TINY).hints)
    assert "LD_PRELOAD" not in cpu_profile(PLAIN, TINY).environment


def test_two_hyper_threads_count_as_one_core(tmp_path: Path) -> None:
    for cpu, siblings in {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}.items():
        topology = tmp_path / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(siblings + "\n")
    assert one_per_core([0, 1, 2, 3], tmp_path) == (0, 1)
    assert one_per_core([2, 3], tmp_path) == (2, 3)


def test_cpus_of_unknown_topology_are_all_used(tmp_path: Path) -> None:
    assert one_per_core([0, 1], tmp_path) == (0, 1)


@pytest.mark.parametrize(
    ("limit", "used", "left"), [("4294967296", "1073741824", 3 * GIB), ("max", "5", math.inf), ("5", "9", 0)]
)
def test_a_containers_limit_counts_as_the_memory_there_is(tmp_path: Path, limit: str, used: str, left: float) -> None:
    (tmp_path / "memory.max").write_text(limit + "\n")
    (tmp_path / "memory.current").write_text(used + "\n")
    assert container_bytes(tmp_path) == left
    assert container_bytes(tmp_path / "nowhere") == math.inf


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A path that holds nothing but what the test puts into nvidia-smi."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path / "nvidia-smi"


def install(tool: Path, script: str) -> None:
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)


def test_auto_is_gpu_where_nvidia_smi_lists_one_and_cpu_elsewhere(nvidia_smi: Path) -> None:
    assert resolve("auto") == "cpu"
    install(nvidia_smi, "echo 'GPU 0: NVIDIA H200'")
    assert (resolve("auto"), resolve("gpu"), resolve("cpu")) == ("gpu", "gpu", "cpu")
    install(nvidia_smi, "echo 'NVIDIA-SMI has failed'; exit 9")
    assert resolve("auto") == "cpu"


def test_a_gpu_that_is_not_there_and_an_unknown_profile_are_refused(nvidia_smi: Path) -> None:
    with pytest.raises(BadInput, match="nvidia-smi shows no GPU here; use --profile cpu"):
        resolve("gpu")
    with pytest.raises(BadInput, match="found 'tpu'; allowed: auto, cpu, gpu"):
        resolve("tpu")
