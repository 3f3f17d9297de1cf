"""The judge's word on a run, printed and kept beside the scores: `run --judge` and `rescore --judge`."""

from __future__ import annotations

from common import console
from common.console import BadInput, CannotJudge, PlumblineError, say, shorten
from common.whole_file import write_whole
from evals.judge import JudgeSummary, Share, judge_run
from evals.run_folder import RunFolder
from serving.endpoint import Endpoint, connect

JUDGE_FILE = "judge.json"


def find_judge(base_url: str, model: str | None) -> Endpoint:
    """Where the judge is. Raises BadInput and CannotJudge that name the option."""
    try:
        return connect(base_url, model)
    except PlumblineError as error:
        raise type(error)(f"--judge: {error}") from None


def pair_of(told: str | None) -> tuple[str, str] | None:
    """The two variants that `--judge-pair A,B` names. Raises BadInput."""
    if told is None:
        return None
    first, mark, second = (part.strip() for part in told.partition(","))
    if not (mark and first and second):
        raise BadInput(f"--judge-pair: found {shorten(told, 80)!r}; give two variants as A,B")
    return first, second


def judge(folder: RunFolder, endpoint: Endpoint, pair: tuple[str, str] | None = None) -> JudgeSummary:
    """Have a scored run judged, print what came of it, keep it as judge.json. Raises BadInput and CannotJudge."""
    summary = judge_run(folder, endpoint, pairwise=pair)
    path = folder.path / JUDGE_FILE
    try:
        write_whole(path, [summary.model_dump_json(indent=2).encode() + b"\n"])
    except OSError as error:
        raise CannotJudge(f"{path}: cannot be written ({error.strerror})") from None
    _print(summary)
    return summary


def _print(summary: JudgeSummary) -> None:
    without = f", {summary.without_note} samples without a note" if summary.without_note else ""
    if not (summary.n or summary.errors):
        say(f"judge {summary.judge}: nothing to judge{without}; prompts with `note: true` ask for one")
        return
    made_up = "SIMULATOR, verdicts are made up; " if summary.simulated else ""
    own = "; it judges its own notes too" if summary.judges_itself else ""
    counts = f"{summary.n} judgements of {summary.cases} cases, {sum(summary.errors.values())} failed{without}"
    console.table(
        f"judge {summary.judge}: {made_up}{counts}{own}",
        ["variant", "correct", "grounded", "useful (1 to 5)"],
        [(one.variant, _told(one.correct), _told(one.grounded), _told(one.useful)) for one in summary.variants],
    )
    if (pair := summary.pair) is not None:
        bias = "" if pair.position_bias is None else f"; the place decided in {_told(pair.position_bias)} of them"
        say(
            f"judge, side by side: {pair.a} better {pair.a_better} times, {pair.b} better {pair.b_better} times, "
            f"{pair.ties} ties of {pair.n} pairs{bias}"
        )
    agreed = summary.agreement
    if agreed is None or agreed.kappa is None:
        say("judge and scorers: agreement cannot be told; one of them says the same of every sample, or nothing")
        return
    bounds = "" if agreed.kappa_low is None else f" [{agreed.kappa_low:.2f}, {agreed.kappa_high:.2f}]"
    say(f"judge and scorers: kappa {agreed.kappa:.2f}{bounds}, n={agreed.n}; 1 is full agreement, 0 is chance")


def _told(share: Share) -> str:
    bounds = "" if share.low is None else f" [{share.low:.2f}, {share.high:.2f}]"
    return f"{share.mean:.2f}{bounds} (n={share.n})"
