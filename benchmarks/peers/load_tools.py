"""How each load tool is started, and how what it wrote is read: one function each, files in a folder of the run's own.

Each tool is told: streaming chat completions, open loop, Poisson, so many requests at such a rate, 100 words of prompt.
"""

from __future__ import annotations

import json
import math
import sqlite3
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import yaml

from benchmarks.engine_rate import BENCH_SERVE
from benchmarks.peers.environment import PeerFailed, peers_python
from benchmarks.peers.load_figures import Reported
from load_tests.rows import read_run
from load_tests.sse import Status
from serving.weights import cache_dir

_HERE = Path(__file__).parent
_PROMPT_WORDS = 100
_WORDS = ["table", "batch", "stream", "load", "query", "cost", "index", "shard", "lake", "queue", "window", "merge"]
TOKENIZER = "smollm2-135m-instruct"


@dataclass(frozen=True)
class Load:
    """What a tool is asked for."""

    url: str
    """Of the server, without /v1."""
    model: str
    rate_per_s: float
    requests: int
    output_tokens: int
    seed: int


# --- ours ------------------------------------------------------------------------------------------------


def start_plumbline(load: Load, folder: Path) -> list[str]:
    """Our own command, without MLflow; it takes a duration, so that the number of requests varies as Poisson's do."""
    profile = {
        "name": "peers",
        "arrivals": {"kind": "poisson", "rate_per_s": load.rate_per_s},
        "duration_s": math.ceil(load.requests / load.rate_per_s),
        "seed": load.seed,
        "warmup_requests": 0,  # the others send none, and the server's mean is over all that it saw
        "workload": {"kind": "synthetic", "prompt_tokens": _PROMPT_WORDS, "output_tokens": load.output_tokens},
    }
    (folder / "profile.yaml").write_text(yaml.safe_dump(profile), "utf8")
    options = ["--no-mlflow", "--base-url", f"{load.url}/v1", "--out", str(folder / "run")]
    return [sys.executable, "-m", "load_tests", "run", str(folder / "profile.yaml"), *options]


def read_plumbline(folder: Path) -> Reported:
    """All rows that are ok, those outside the steady window too, from their sending."""
    rows = [row for row in read_run(folder / "run").records if row.status is Status.OK and row.ttft_s is not None]
    ttft_ms = tuple(row.ttft_s * 1e3 for row in rows if row.ttft_s is not None)
    return Reported(ttft_ms, tuple(gap * 1e3 for row in rows for gap in row.itl_s))


# --- guidellm --------------------------------------------------------------------------------------------


def start_guidellm(load: Load, folder: Path) -> list[str]:
    """A prompt file, so that it needs no tokenizer."""
    _write_prompts(folder / "prompts.jsonl", "prompt", load)
    backend = f"kind=openai_http,target={load.url},model={load.model},http2=false"
    return [
        *(str(peers_python(_HERE / "guidellm.txt").with_name("guidellm")), "run", "--backend", backend),
        *("--profile", f"kind=poisson,rate={load.rate_per_s:g}"),
        *("--constraint", f"kind=max_requests,count={load.requests}"),
        *("--data", "kind=json_file,path=prompts.jsonl", "--output", "kind=json,path=result.json"),
        "--disable-console-interactive",
    ]


def read_guidellm(folder: Path) -> Reported:
    """It keeps no stamp of each token, only the first and the last."""
    (benchmark,) = json.loads((folder / "result.json").read_text("utf8"))["benchmarks"]
    rows = benchmark["requests"]["successful"]
    ttft_ms = tuple(row["time_to_first_token_ms"] for row in rows)
    return Reported(ttft_ms, tuple(row["inter_token_latency_ms"] for row in rows), per_request_means=True)


# --- aiperf ----------------------------------------------------------------------------------------------


def start_aiperf(load: Load, folder: Path) -> list[str]:
    """Tokens as the server counts them; it loads a tokenizer all the same."""
    _write_prompts(folder / "prompts.jsonl", "text", load)
    return [
        *(str(peers_python(_HERE / "aiperf.txt").with_name("aiperf")), "profile", "-m", load.model, "--url", load.url),
        *("--endpoint-type", "chat", "--streaming", "--tokenizer", str(tokenizer()), "--use-server-token-count"),
        *("--input-file", "prompts.jsonl", "--custom-dataset-type", "single_turn", "--osl", str(load.output_tokens)),
        *("--request-rate", f"{load.rate_per_s:g}", "--arrival-pattern", "poisson"),
        *("--request-count", str(load.requests), "--random-seed", str(load.seed), "--workers-max", "2"),
        *("--ui", "none", "--no-gpu-telemetry", "--no-server-metrics", "--artifact-dir", "result"),
    ]


def read_aiperf(folder: Path) -> Reported:
    """Its "inter chunk latency" is each gap; what it calls inter-token latency is a mean per request."""
    lines = (folder / "result" / "profile_export.jsonl").read_text("utf8").splitlines()
    rows = [json.loads(line)["metrics"] for line in lines]
    rows = [row for row in rows if "time_to_first_token" in row]
    ttft_ms = tuple(row["time_to_first_token"]["value"] for row in rows)
    return Reported(ttft_ms, tuple(gap for row in rows for gap in row["inter_chunk_latency"]["value"]))


# --- evalscope -------------------------------------------------------------------------------------------


def start_evalscope(load: Load, folder: Path) -> list[str]:
    """Prompts from a file, one a line."""
    lines = [f"{prompt}\n" for prompt in prompts(load)]
    (folder / "prompts.txt").write_text("".join(lines), "utf8")
    return [
        *(str(peers_python(_HERE / "evalscope.txt").with_name("evalscope")), "perf", "--api", "openai"),
        *("--url", f"{load.url}/v1/chat/completions", "--model", load.model),
        *(
            "--dataset",
            "line_by_line",
            "--dataset-path",
            "prompts.txt",
            "--open-loop",
            "--rate",
            f"{load.rate_per_s:g}",
        ),
        *(
            "--number",
            str(load.requests),
            "--stream",
            "--max-tokens",
            str(load.output_tokens),
            "--seed",
            str(load.seed),
        ),
        *("--no-test-connection", "--outputs-dir", "result"),
    ]


def read_evalscope(folder: Path) -> Reported:
    """From its database, seconds there. Raises PeerFailed when there is none, or more than one."""
    found = list((folder / "result").rglob("benchmark_data.db"))
    if len(found) != 1:
        raise PeerFailed(f"it wrote {len(found)} databases of results; one was expected")
    with closing(sqlite3.connect(found[0])) as database:
        asked = "SELECT first_chunk_latency, inter_token_latencies FROM result WHERE success = 1"
        rows = database.execute(asked).fetchall()
    gaps = tuple(gap * 1e3 for _, text in rows for gap in json.loads(text))
    return Reported(tuple(ttft_s * 1e3 for ttft_s, _ in rows), gaps)


# --- vllm bench serve ------------------------------------------------------------------------------------


def start_vllm(load: Load, folder: Path) -> list[str]:
    """Of the installed vLLM, in the project's own environment."""
    _write_prompts(folder / "prompts.jsonl", "prompt", load)
    return [
        *(sys.executable, "-c", BENCH_SERVE, "--backend", "openai-chat", "--endpoint", "/v1/chat/completions"),
        *("--base-url", load.url, "--model", load.model, "--tokenizer", str(tokenizer())),
        *("--dataset-name", "custom", "--dataset-path", "prompts.jsonl", "--disable-shuffle"),
        *("--custom-output-len", str(load.output_tokens), "--num-prompts", str(load.requests)),
        *("--request-rate", f"{load.rate_per_s:g}", "--seed", str(load.seed), "--disable-tqdm"),
        *("--save-result", "--save-detailed", "--result-dir", ".", "--result-filename", "result.json"),
    ]


def read_vllm(folder: Path) -> Reported:
    """Seconds in its file; a request that failed has an error there."""
    result = json.loads((folder / "result.json").read_text("utf8"))
    rows = list(zip(result["ttfts"], result["itls"], result["errors"], strict=True))
    good = [(ttft_s, gaps) for ttft_s, gaps, error in rows if not error]
    return Reported(tuple(ttft_s * 1e3 for ttft_s, _ in good), tuple(gap * 1e3 for _, gaps in good for gap in gaps))


# --- what they share -------------------------------------------------------------------------------------


def tokenizer() -> Path:
    """The folder of the small model, brought for the engine. Raises PeerFailed when it is not there."""
    folder = cache_dir() / TOKENIZER
    if not (folder / "tokenizer.json").is_file():
        raise PeerFailed(
            f"needs a tokenizer: bring {TOKENIZER} first, with `python -m serving start --model {TOKENIZER}`"
        )
    return folder


def prompts(load: Load) -> list[str]:
    """A prompt for each request, the same for the same seed."""
    rng = Random(load.seed)  # noqa: S311 - not for secrets
    return [" ".join(rng.choices(_WORDS, k=_PROMPT_WORDS)) for _ in range(load.requests)]


def _write_prompts(path: Path, key: str, load: Load) -> None:
    rows: list[dict[str, Any]] = [{key: prompt} for prompt in prompts(load)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf8")
