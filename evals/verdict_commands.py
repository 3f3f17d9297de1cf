"""`python -m evals compare` and `gate`: two runs side by side, and whether a run may go through.

Statistics take seconds to import, which --help and the other commands would wait for: each function imports its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common import console
from common.console import CannotJudge, say
from common.located import load_yaml_model
from evals.gate_rules import GateRules
from evals.suite import Suite

if TYPE_CHECKING:
    from evals.compare import Compared, Run
    from evals.gate import GateVerdict
    from evals.results import Comparison

COMPARE_FILE = "compare.html"


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A run's folder, or FOLDER#VARIANT.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The run that is held against it.")],
    out: Annotated[Path | None, typer.Option(help="HTML page to write; else compare.html in B's folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Compare two runs, case by case: variants of one name, or those chosen. Exit 3 when no case is in both.

    Example: python -m evals compare runs/evals/before runs/evals/after#write
    """
    from evals.compare import Run, compare_runs, named_run
    from evals.markup import write_file

    (path_a, variant_a), (path_b, variant_b) = named_run(a), named_run(b)
    compared = compare_runs(Run.open(path_a), Run.open(path_b), variant_a, variant_b)
    target = out or path_b / COMPARE_FILE
    write_file(target, "--out", compare_page(compared))
    if as_json:
        print(compared.model_dump_json(indent=2))
        return
    print_compared(compared)
    say(f"page: {target}")


def compare_page(compared: Compared) -> str:
    """The comparison as a page of its own."""
    from evals import page
    from evals.leaderboard import SIMULATED

    bounds = [abs(bound) for one in compared.comparisons for bound in (one.low, one.high) if bound is not None]
    return page.render("compare.html.j2", compared=compared, simulated_told=SIMULATED, reach=max([0.1, *bounds]))


def print_compared(compared: Compared) -> None:
    """One table a pair of variants."""
    from evals.leaderboard import SIMULATED

    warning = f"; {SIMULATED}" if any(compared.simulated) else ""
    say(f"A: {compared.a}; B: {compared.b}; {compared.in_words}{warning}")
    for a, b in compared.pairs:
        console.table(
            f"{a} (A) and {b} (B); p after Holm over {len(compared.comparisons)} comparisons",
            ["scorer", "A", "B", "B - A [95 % interval]", "p", "effect", "finds from", "n", "B is"],
            [_row(one) for one in compared.of(a, b)],
            right=["A", "B", "p", "effect", "finds from", "n"],
        )


def _row(one: Comparison) -> list[object]:
    from evals.results import p_in_words

    interval = f" [{one.low:+.3f}, {one.high:+.3f}]" if one.low is not None and one.high is not None else ""
    return [
        one.scorer,
        f"{one.mean_a:.3f}",
        f"{one.mean_b:.3f}",
        f"{one.difference:+.3f}{interval}",
        p_in_words(one.p_holm),
        "" if one.effect is None else f"{one.effect:+.2f}",
        "" if one.mde is None else f"{one.mde:.2f}",
        one.n,
        one.verdict,
    ]


def gate(
    suite: Annotated[Path, typer.Argument(metavar="SUITE.yaml")],
    baseline: Annotated[Path, typer.Option(metavar="RUN", help="Folder of the run to hold it against.")],
    run: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Judge this run; else the suite is run now, into --out.")
    ] = None,
    base_url: Annotated[str | None, typer.Option(help="Endpoint; else OPENAI_BASE_URL, else the started one.")] = None,
    model: Annotated[str | None, typer.Option(help="Model to ask for; else the first one served.")] = None,
    out: Annotated[Path | None, typer.Option(help="The new run's folder; else runs/evals/TIME.")] = None,
    junit_file: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML.")] = None,
    markdown_file: Annotated[Path | None, typer.Option("--markdown", metavar="FILE", help="Write Markdown.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Judge a suite against a baseline. Exit 0 passed, 1 worse, 3 too little evidence or no sound run.

    Margins and levels stand in the suite's `gate:` block.

    Example: python -m evals gate examples/suite.yaml --baseline runs/evals/main --junit gate.xml
    """
    from evals.compare import Run
    from evals.gate import judge, not_judged

    rules = load_yaml_model(suite, Suite).gate or GateRules()
    held_against = Run.open(baseline)  # before anything is asked
    try:
        candidate = Run.open(run) if run else _run(suite, base_url, model, out)
        verdict = judge(held_against, candidate, rules)
    except CannotJudge as error:
        # The build server reads files: a verdict that could not be had is told there too.
        verdict = not_judged(str(error), held_against)
    print(verdict.model_dump_json(indent=2)) if as_json else _print(verdict)
    _write(verdict, junit_file, markdown_file)  # last: a file that cannot be written must not cost the verdict
    raise typer.Exit(verdict.exit_code)


def _run(suite: Path, base_url: str | None, model: str | None, out: Path | None) -> Run:
    from evals.compare import Run
    from evals.outcomes import outcomes_of
    from evals.run_command import derive
    from evals.running import Where, run_suite

    ran = run_suite(suite, Where(base_url, model, out))
    derive(ran.folder, ran)
    return Run(ran.folder, ran.table, outcomes_of(ran.folder))


def _write(verdict: GateVerdict, junit_file: Path | None, markdown_file: Path | None) -> None:
    from evals.markup import write_file
    from evals.verdict_files import junit, markdown

    if junit_file:
        write_file(junit_file, "--junit", junit(verdict))
    if markdown_file:
        write_file(markdown_file, "--markdown", markdown(verdict))


def _print(verdict: GateVerdict) -> None:
    from evals.leaderboard import SIMULATED
    from evals.verdict_files import difference, number, reasons, sign

    if verdict.simulated:
        say(SIMULATED)
    shown = [check for check in verdict.checks if check.outcome != "pass" or (check.required and check.p is not None)]
    console.table(
        f"{verdict.suite}: {verdict.candidate or 'no run'} against {verdict.baseline}, {verdict.cases} cases",
        ["variant", "check", "baseline", "run", "difference", "margin", "n", "verdict"],
        [
            [
                check.variant,
                check.check + ("" if check.required else " (watched)"),
                number(check.baseline),
                number(check.candidate),
                difference(check),
                "" if check.margin is None else f"{check.margin:g}",
                "" if check.n is None else check.n,
                sign(check),
            ]
            for check in shown
        ],
        right=["baseline", "run", "difference", "margin", "n"],
    )
    if more := len(verdict.checks) - len(shown):
        still_open = sum(check.open for check in verdict.checks)
        told = f", {still_open} of them open: watched, too little evidence of a fall" if still_open else ""
        say(f"{more} more checks found nothing against it{told}; --markdown and --json tell them all")
    for why in reasons(verdict):
        say(why)
    for note in verdict.notes:
        say(f"note: {note}")
    say(verdict.why)
