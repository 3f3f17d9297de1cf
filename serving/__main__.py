"""`python -m serving`: the model catalogue, a vLLM endpoint, and the simulator."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from common import console
from common.console import CannotJudge, say
from serving import weights
from serving.catalogue import MODELS, default_model, model_named
from serving.endpoint import START_COMMAND
from serving.profiles import detect, make, model_size, resolve
from serving.simulator import DecisionsRoute, Fault, SimulatorSettings, serve
from serving.state import ServerRecord, read_records
from serving.vllm_server import ServerSpec, healthy, refuse_second_server, refuse_taken_port, stop
from serving.vllm_server import start as start_server

app = console.command_group(__doc__ or "")

Port = Annotated[int, typer.Option(min=1, max=65535, help="TCP port to serve on.")]
OnePort = Annotated[int | None, typer.Option("--port", min=1, max=65535, help="Only the endpoint on this port.")]
Host = Annotated[str, typer.Option(help="Address to bind; the default keeps the endpoint on this machine.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the models we know, where their weights come from, and which are in the cache."""
    default = default_model(detect())
    rows = [
        {
            "name": model.name,
            "default_here": model.name == default,
            "cached": weights.cached(model),
            "origin": model.origin,
            "size_bytes": model.source_bytes,
            "parameters_millions": model.parameters_millions,
            "context_tokens": model.context,
            "licence": model.licence,
            "sha256": model.sha256,
            "note": model.note,
        }
        for model in MODELS.values()
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    console.table(
        f"models (cache: {weights.cache_dir()})",
        ["name", "parameters", "file", "context", "licence", "cached", "from"],
        [
            [
                f"{row['name']}{' (default here)' if row['default_here'] else ''}",
                f"{row['parameters_millions']} M",
                f"{int(str(row['size_bytes'])) / 1e6:.0f} MB",
                row["context_tokens"],
                row["licence"],
                "yes" if row["cached"] else "no",
                f"{row['origin']}: {row['note']}",
            ]
            for row in rows
        ],
        right=["parameters", "file", "context"],
    )


@app.command()
def start(
    model: Annotated[str | None, typer.Option(help="Catalogue name, or a folder that holds a model.")] = None,
    profile: Annotated[str, typer.Option(help="auto, cpu or gpu.")] = "auto",
    port: Port = 8000,
    host: Host = "127.0.0.1",
    background: Annotated[bool, typer.Option("--background", help="Return once it is healthy.")] = False,
) -> None:
    """Start a vLLM endpoint. In the foreground, Ctrl-C ends it. Several can run, each on a port of its own.

    Example: python -m serving start --model smollm2-135m-instruct --background
    """
    kind = resolve(profile)
    refuse_second_server(port)
    refuse_taken_port(host, port)
    name, folder, context = _weights(model or default_model(kind))
    chosen = make(kind, model_size(folder, context))
    for hint in chosen.hints:
        say(f"hint: {hint}")
    spec = ServerSpec(name, folder, chosen, host, port)
    say(f"starting vLLM ({chosen.name} profile) at {spec.base_url}; this takes one to two minutes on a CPU")
    record = start_server(spec, lambda text: say(f"  {text}"))
    say(f"{name} answers at {record.base_url} (pid {record.pid}, log {record.log_path})")
    if background:
        say(f"stop it with `python -m serving stop --port {port}`")
        return
    _stay(record)


def _weights(model: str) -> tuple[str, Path, int]:
    """Name, folder and context of a catalogue model, or of a folder of the user's own."""
    if "/" in model or model.startswith((".", "~")):
        folder = weights.local_folder(model)
        return folder.name, folder, 32_768
    known = model_named(model)
    say(f"{known.name}: bringing and verifying the weights")
    return known.name, weights.bring(known, lambda text: say(f"  {text}")), known.context


def _stay(record: ServerRecord) -> None:
    """Keep a foreground server until it ends or we are interrupted; leave no process behind."""
    say("Ctrl-C ends it")
    try:
        while record.process():
            time.sleep(0.5)
    except KeyboardInterrupt:
        say("stopping")
        stop(record)
        return
    if record not in read_records():
        say("stopped from elsewhere")
        return
    stop(record)  # what the server left behind
    raise CannotJudge(f"vLLM ended by itself; its log: {record.log_path}")


@app.command()
def status(port: OnePort = None, as_json: AsJson = False) -> None:
    """Say which recorded endpoints are up and what they serve. Exit code 3 when none is recorded or one is not up."""
    records = _recorded(port)
    states = [_state(record) for record in records]
    if as_json:
        servers = [{"state": state, **record.model_dump()} for state, record in zip(states, records, strict=True)]
        # The first one's fields also stand by themselves: most people run one.
        print(json.dumps({**(servers[0] if servers else {"state": "down"}), "servers": servers}, indent=2))
    elif records:
        for record, state in zip(records, states, strict=True):
            _show(record, state)
    else:
        say(f"down: no endpoint is recorded{_on(port)}; start one with `{START_COMMAND}{_option(port)}`")
    if not records or set(states) != {"up"}:
        raise typer.Exit(console.ExitCode.NOT_JUDGED)


def _recorded(port: int | None) -> list[ServerRecord]:
    return [record for record in read_records() if port in {None, record.port}]


def _state(record: ServerRecord) -> Literal["up", "not answering", "down"]:
    if not record.process():
        return "down"
    return "up" if healthy(record.base_url.removesuffix("/v1")) else "not answering"


def _show(record: ServerRecord, state: str) -> None:
    if state == "down":
        say(f"down: {record.model} at {record.base_url} (pid {record.pid}) has ended; its log: {record.log_path}")
        return
    say(f"{state}: {record.model} at {record.base_url} (pid {record.pid}, {record.profile} profile)")
    say(f"log: {record.log_path}")


def _on(port: int | None) -> str:
    return "" if port is None else f" on port {port}"


def _option(port: int | None) -> str:
    return "" if port is None else f" --port {port}"


@app.command("stop")
def stop_command(port: OnePort = None) -> None:
    """Stop the recorded endpoints with all their processes; with --port, only the one there."""
    records = _recorded(port)
    if not records:
        say(f"nothing to stop: no endpoint is recorded{_on(port)}")
    for record in records:
        if stop(record):
            say(f"stopped {record.model} at {record.base_url} (pid {record.pid})")
        else:
            say(f"{record.model} at {record.base_url} (pid {record.pid}) had ended already; its record is removed")


@app.command()
def sim(
    ttft_ms: Annotated[float, typer.Option(help="Time to first token.")] = 50.0,
    itl_ms: Annotated[float, typer.Option(help="Time between tokens.")] = 10.0,
    output_tokens: Annotated[int, typer.Option(help="Tokens in each answer.")] = 64,
    seed: Annotated[int, typer.Option(help="Same seed, same answers.")] = 0,
    ttft_cv: Annotated[float, typer.Option(help="Spread of TTFT: standard deviation / mean, lognormal.")] = 0.0,
    itl_cv: Annotated[float, typer.Option(help="The same of each time between tokens.")] = 0.0,
    tokens_per_chunk: Annotated[int, typer.Option(help="Tokens in a content chunk; the first goes alone.")] = 1,
    max_running: Annotated[int | None, typer.Option(help="Requests worked on at once; others wait.")] = None,
    max_queue: Annotated[int | None, typer.Option(help="Requests that may wait; one more gets status 503.")] = None,
    freeze_at_s: Annotated[float, typer.Option(help="When a freeze begins, after the first request.")] = 0.0,
    freeze_for_s: Annotated[float, typer.Option(help="How long nothing at all is sent.")] = 0.0,
    fault: Annotated[Fault, typer.Option(help="Fail requests in this way.")] = Fault.NONE,
    fault_rate: Annotated[float, typer.Option(help="Share of requests that fail, 0 to 1, chosen by seed.")] = 1.0,
    fault_first: Annotated[int | None, typer.Option(help="Only the first so many can fail.")] = None,
    retry_after_s: Annotated[int, typer.Option(help="What Retry-After says with --fault http-429.")] = 0,
    label_ids: Annotated[bool, typer.Option(help="Offer POST /tokenize and logprob_token_ids, as vLLM does.")] = True,
    decisions: Annotated[
        DecisionsRoute, typer.Option(help="POST /v1/decisions: not there, answered, or refused for the model.")
    ] = DecisionsRoute.OFF,
    refuse_parameter: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Refuse requests that hold this key, with status 400; can be repeated."),
    ] = None,
    port: Port = 8000,
    host: Host = "127.0.0.1",
) -> None:
    """Run the simulator: exact, stamped timing and made-up answers, for tests, calibration and failure drills.

    Example: python -m serving sim --ttft-ms 50 --itl-ms 10 --port 8100

    A storm that ends: python -m serving sim --fault http-429 --fault-first 20 --retry-after-s 1

    A known limit: with --max-running N it serves N / (ttft + (output tokens - 1) * itl) requests per second.
    """
    settings = SimulatorSettings(
        ttft_ms=ttft_ms,
        itl_ms=itl_ms,
        output_tokens=output_tokens,
        seed=seed,
        ttft_cv=ttft_cv,
        itl_cv=itl_cv,
        tokens_per_chunk=tokens_per_chunk,
        max_running=max_running,
        max_queue=max_queue,
        freeze_at_s=freeze_at_s,
        freeze_for_s=freeze_for_s,
        fault=fault,
        fault_rate=fault_rate,
        fault_first=fault_first,
        retry_after_s=retry_after_s,
        label_ids=label_ids,
        decisions=decisions,
        refused_parameters=tuple(refuse_parameter or ()),
    )
    knee = f"; it holds {settings.knee_per_s:.4g} requests/s" if settings.knee_per_s else ""
    serve(
        settings,
        host,
        port,
        lambda url: say(f"SIMULATOR (no model, answers are made up) at {url}{knee}; Ctrl-C ends it"),
    )


if __name__ == "__main__":
    console.run(app)
