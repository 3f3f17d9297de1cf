"""A sender that sends nothing: it speaks the line protocol, keeps the schedule and makes up latencies.

For what Locust does around a sender, also around one that fails: SCRIPT in the environment says which.
"""

from __future__ import annotations

import heapq
import json
import os
import select
import sys
import threading
import time
from pathlib import Path
from typing import Any

from load_tests.arrivals import Poisson, schedule, share

SCRIPT: dict[str, Any] = {"rate_per_s": 20, "duration_s": 2, "seed": 1, "latency_s": 0.02}
SCRIPT |= json.loads(os.environ.get("SCRIPT", "{}"))


class Sender:
    """Rows and lines of one worker."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.worker, self.workers = order["worker"], order["workers"]
        self._rows = Path(order["rows"]).open("x")  # noqa: SIM115 - open as long as this process
        self.users = 0
        self.sent = self.written = 0
        self.stopped = threading.Event()
        self._lock = threading.Lock()

    def say(self, kind: str, **fields: Any) -> None:
        with self._lock:
            sys.stdout.write(json.dumps({"kind": kind, **fields}) + "\n")
            sys.stdout.flush()

    def row(self, kind: str, **fields: Any) -> None:
        with self._lock:
            self._rows.write(json.dumps({"kind": kind, **fields}, separators=(",", ":")) + "\n")
            self._rows.flush()

    def start(self, start_at_s: float, scheduled: int | None) -> None:
        self.at_s = start_at_s
        self.row("start", worker=self.worker, workers=self.workers, start_at_s=start_at_s, scheduled=scheduled)
        time.sleep(max(0.0, start_at_s - time.time()))

    def answer(self, index: int, intended_s: float, sent_s: float) -> None:
        """One request's row and line; times in seconds since the start."""
        took_s = SCRIPT["latency_s"] * (1 + index % 7)
        ok = index not in SCRIPT.get("fail", [])
        status = "ok" if ok else "http_error"
        sent_ns, first_ns = int(sent_s * 1e9), int((sent_s + took_s) * 1e9)
        self.row(
            "request", index=index, worker=self.worker, status=status, intended_ns=round(intended_s * 1e9),
            sent_ns=sent_ns, first_content_ns=first_ns if ok else None, last_content_ns=first_ns if ok else None,
            ttft_s=took_s if ok else None, e2e_s=took_s if ok else None, itl_s=[0.01] if ok else [],
            users=self.users,
        )  # fmt: skip
        self.written += 1
        error = None if ok else f"{status}: HTTP 503"
        self.say("request", name="placement", response_ms=took_s * 1e3, bytes=1000, error=error)
        if self.written == SCRIPT.get("die_after") and self.worker == SCRIPT.get("die_worker", self.worker):
            os._exit(7)


def open_loop(sender: Sender, start_at_s: float) -> None:
    due_ns = schedule(Poisson(rate_per_s=SCRIPT["rate_per_s"]), SCRIPT["duration_s"], SCRIPT["seed"])
    mine = share(len(due_ns), sender.worker, sender.workers)
    sender.start(start_at_s, len(mine))
    flying: list[tuple[float, int, float, float]] = []
    left = list(mine)[::-1]
    while (left and not sender.stopped.is_set()) or flying:
        now_s = time.time() - start_at_s
        while left and not sender.stopped.is_set() and due_ns[left[-1]] / 1e9 <= now_s:
            index = left.pop()
            sender.sent += 1
            due_s = float(due_ns[index] / 1e9)
            heapq.heappush(flying, (now_s + SCRIPT["latency_s"] * (1 + index % 7), index, due_s, now_s))
        while flying and flying[0][0] <= now_s:
            _, index, due_s, sent_s = heapq.heappop(flying)
            sender.answer(index, due_s, sent_s)
        time.sleep(0.002)


def closed_loop(sender: Sender, start_at_s: float) -> None:
    sender.start(start_at_s, None)
    while not sender.stopped.is_set():
        for _ in range(sender.users):
            now_s = time.time() - start_at_s
            sender.sent += 1
            sender.answer((sender.sent - 1) * sender.workers + sender.worker, now_s, now_s)
        time.sleep(0.05)


def main() -> None:
    first = json.loads(sys.stdin.readline())
    if SCRIPT.get("refuse"):
        sys.stderr.write("error: load.yaml: seed: found -1\n")
        sys.exit(2)
    sender = Sender(first)
    select.select([sys.stdin], [], [], SCRIPT.get("prepare_s", 0))  # until its orders end
    sender.say("ready")
    second = json.loads(sys.stdin.readline() or "null")
    if second is None:
        sys.exit(0)
    loop = closed_loop if SCRIPT.get("loop") == "closed" else open_loop
    threading.Thread(target=listen, args=(sender,), daemon=True).start()
    loop(sender, second["start_at_s"])
    sender.stopped.wait(SCRIPT.get("hang_s", 0))
    time.sleep(SCRIPT.get("drain_s", 0))
    now_ns = int((time.time() - sender.at_s) * 1e9)
    cpu_s = time.process_time()
    sender.row("end", stop_ns=now_ns, end_ns=now_ns, sent=sender.sent, cpu_s=cpu_s, max_rss_mb=30.0)
    sender.say("end", sent=sender.sent, rows=sender.written, cpu_s=cpu_s)


def listen(sender: Sender) -> None:
    for line in sys.stdin:
        order = json.loads(line)
        sender.users = order.get("users", sender.users)
        if order.get("stop"):
            sender.stopped.set()
    sender.row("hung_up", sent=sender.sent)
    os._exit(1)


if __name__ == "__main__":
    main()
