"""The page of one load test: report.html, one file that asks nothing of anybody, under a megabyte for any test.

Figures are the report's own, so that page and report.json cannot differ; charts are drawn from the rows. Every request
is in the percentiles, the heat map and the series; of single requests a chart shows as many as it has room for, every
k-th in order of sending, and says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.whole_file import write_whole
from evals import page
from load_tests.page_charts import TestTimes, charts_of, server_charts
from load_tests.rows import LoadRows
from load_tests.server_metrics import ServerReport, server_sentences
from load_tests.sse import RequestRecord, Status

if TYPE_CHECKING:
    from load_tests.calibrate import Calibration
    from load_tests.run_folder import RunFolder
    from load_tests.slo import SloVerdict

TEMPLATES = Path(__file__).parent / "templates"
SLOWEST = 20
MOST_ERRORS = 30
LONGEST_TEXT = 300

_KINDS = {
    "ttft_s": "TTFT, from sending",
    "ttft_from_intended_s": "TTFT, from intended start",
    "itl_s": "ITL, gaps between chunks",
    "tpot_s": "TPOT, per request",
    "e2e_s": "e2e, from sending",
    "e2e_from_intended_s": "e2e, from intended start",
    "scheduling_lag_s": "scheduling lag (sent minus intended)",
}


def write_page(
    folder: RunFolder,
    report_json: Mapping[str, Any],
    rows: LoadRows,
    server: ServerReport | None,
    slo: SloVerdict | None,
    calibration: Calibration | None,
) -> Path:
    """Write the page of a test.

    report_json: what `as_json` gave for these rows. calibration: this machine's own error bars.
    """
    write_whole(folder.page, [load_page(report_json, rows, server, slo, calibration).encode()])
    return folder.page


def load_page(
    report_json: Mapping[str, Any],
    rows: LoadRows,
    server: ServerReport | None,
    slo: SloVerdict | None,
    calibration: Calibration | None,
) -> str:
    """The page as text."""
    times = TestTimes.of(rows, steady_window(report_json))
    return page.render(
        "load.html.j2",
        TEMPLATES,
        report=report_json,
        start=rows.start,
        facts=_facts(rows),
        latencies=_latencies(report_json),
        percentiles=_percentiles(report_json),
        steady=times.steady,
        phases=_phases_told(report_json),
        times=times,
        charts=charts_of(times),
        server=server,
        server_sentences=server_sentences(server) if server else [],
        server_charts=server_charts(server, times) if server else [],
        slo=slo,
        calibration=calibration,
        failures=_failures(rows.records),
        errors=_errors(rows.records),
        most_errors=MOST_ERRORS,
        slowest=_slowest(times, rows.records),
        sent=len(rows.records),
    )


def steady_window(report_json: Mapping[str, Any]) -> tuple[float, float] | None:
    """Start and end of the steady window, seconds after the start; None where there is none."""
    phases = report_json.get("phases") or {}
    start_s, end_s = phases.get("start_s"), phases.get("end_s")
    return None if start_s is None or end_s is None else (float(start_s), float(end_s))


def _phases_told(report_json: Mapping[str, Any]) -> str:
    return str((report_json.get("phases") or {}).get("why") or "")


def _facts(rows: LoadRows) -> list[tuple[str, str]]:
    """The condition, in words."""
    start = rows.start
    prompt = f"{start.prompt} v{start.prompt_version}" if start.prompt else "none of ours"
    loop = f"closed, {start.users} users" if start.loop == "closed" else f"open, {_arrivals(start.profile)}"
    found = [
        ("model", start.model),
        ("endpoint", start.base_url),
        ("loop", loop),
        ("workload", str((start.profile.get("workload") or {}).get("kind", "agents"))),
        ("prompt", prompt),
        ("started", start.started_at),
        ("duration asked for", f"{start.profile.get('duration_s', '?')} s"),
        ("workers", str(start.workers)),
        ("client", start.client),
    ]
    return [(name, value[:LONGEST_TEXT]) for name, value in found]


def _arrivals(profile: Mapping[str, Any]) -> str:
    arrivals = dict(profile.get("arrivals") or {})
    kind = arrivals.pop("kind", "schedule")
    return f"{kind} " + ", ".join(f"{name} {value}" for name, value in arrivals.items() if value is not None)


def _latencies(report_json: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(words, report_json[name]) for name, words in _KINDS.items() if isinstance(report_json.get(name), Mapping)]


def _percentiles(report_json: Mapping[str, Any]) -> list[str]:
    """The percentiles that the report has, as it names them: p50, p90, ..."""
    named = {key for _, one in _latencies(report_json) for key in one if key[:1] == "p" and key[1:].isdigit()}
    return sorted(named, key=lambda key: int(key[1:]))


# --- single requests -------------------------------------------------------------------------------------


def _failures(records: Sequence[RequestRecord]) -> list[tuple[str, int]]:
    counts = Counter(record.status.value for record in _failed(records))
    return counts.most_common()


def _failed(records: Sequence[RequestRecord]) -> list[RequestRecord]:
    return [record for record in records if record.status is not Status.OK and record.cancel_after_chunks is None]


def _errors(records: Sequence[RequestRecord]) -> list[dict[str, Any]]:
    """What was said when requests failed, the most frequent first."""
    counts = Counter((record.status.value, record.http_status, record.error) for record in _failed(records))
    return [
        {"status": status, "http": http, "count": count, "text": page.cut(error, LONGEST_TEXT)}
        for (status, http, error), count in counts.most_common(MOST_ERRORS)
    ]


def _slowest(times: TestTimes, records: Sequence[RequestRecord]) -> list[dict[str, Any]]:
    """The longest from their intended start to their last chunk."""
    took_s = np.nan_to_num(times.e2e_from_intended_s, nan=-1.0)
    places = [place for place in np.argsort(-took_s, kind="stable")[:SLOWEST] if took_s[place] >= 0]
    return [_shown(times, records[place], int(place)) for place in places]


def _shown(times: TestTimes, record: RequestRecord, place: int) -> dict[str, Any]:
    return {
        "index": record.index,
        "at_s": float(times.sent_s[place]),
        "stage": record.stage,
        "pipeline": page.cut(record.pipeline_id, 80),
        "status": record.status.value,
        "ttft_ms": None if record.ttft_s is None else record.ttft_s * 1e3,
        "e2e_ms": None if record.e2e_s is None else record.e2e_s * 1e3,
        "from_intended_ms": float(times.e2e_from_intended_s[place]) * 1e3,
        "longest_gap_ms": max(record.itl_s) * 1e3 if record.itl_s else None,
        "in_flight": int(times.in_flight_at(times.sent_s[place : place + 1])[0]),
        "output_tokens": record.output_tokens,
    }
