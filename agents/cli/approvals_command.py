"""`python -m agents approvals`: what waits for a person's decision, and the decision."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from agents.reports.approvals import EXPERIMENT, Approval, Review, decide, everything, moment, pending
from common import console
from common.console import say
from tracking.store import tracking_uri, ui_command, without_password

approvals = console.command_group("See what waits for a person, and decide on it.")

Id = Annotated[str, typer.Argument(metavar="ID", help="A trace's id, or a pipeline's where one of its traces waits.")]
By = Annotated[str, typer.Option(help="Who decides.")]
Reason = Annotated[str, typer.Option(help="Why; it is kept with the decision.")]


@approvals.command("list")
def list_reviews(
    every: Annotated[bool, typer.Option("--all", help="What was decided as well: by whom, when and why.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """List what waits for a decision.

    Example: python -m agents approvals list --all
    """
    reviews = everything() if every else pending()
    if as_json:
        print(json.dumps(_document(reviews), indent=2, ensure_ascii=False))
    elif reviews:
        _print(reviews, every)
    else:
        say("nothing was ever to be decided" if every else "nothing waits for a person")


@approvals.command()
def approve(given: Id, by: By, reason: Reason) -> None:
    """Let a pipeline's decisions be carried out.

    Example: python -m agents approvals approve ecommerce_pipeline_001 --by Ada --reason "disk was ordered"
    """
    _decided(decide(given, Approval.APPROVED, by=by, reason=reason))


@approvals.command()
def reject(given: Id, by: By, reason: Reason) -> None:
    """Refuse a pipeline's decisions.

    Example: python -m agents approvals reject ecommerce_pipeline_001 --by Ada --reason "would drop a table"
    """
    _decided(decide(given, Approval.REJECTED, by=by, reason=reason))


def _decided(review: Review) -> None:
    say(f"{review.decision}: {_shown(review)} ({review.trace_id}), by {review.by}: {review.reason}")
    say(f"the decision stands on the trace in MLflow, experiment {EXPERIMENT}: {ui_command()}")


def _document(reviews: list[Review]) -> dict[str, object]:
    return {
        "experiment": EXPERIMENT,
        "tracking_uri": without_password(tracking_uri()),
        "approvals": [
            {
                "id": review.trace_id,
                "pipeline_id": review.pipeline_id,
                "asks": review.asks,
                "reasons": review.reasons,
                "since": review.since.isoformat(),
                "simulated": review.simulated,
                "decision": review.decision,
                "by": review.by,
                "reason": review.reason,
                "at": review.at.isoformat() if review.at else None,
            }
            for review in reviews
        ],
    }


def _print(reviews: list[Review], every: bool) -> None:
    waiting = sum(review.decision is None for review in reviews)
    columns = [
        "ID",
        "pipeline",
        "what is asked for",
        "why",
        "since",
        *(["decision", "by", "when", "reason"] if every else []),
    ]
    title = f"{waiting} waiting for a person"
    if decided := len(reviews) - waiting:
        title += f", {decided} decided"
    console.table(title, columns, [_row(review)[: len(columns)] for review in reviews])
    if waiting:
        say("decide with `python -m agents approvals approve|reject ID --by NAME --reason TEXT`")


def _row(review: Review) -> list[str]:
    return [
        review.trace_id,
        _shown(review),
        review.asks,
        review.reasons,
        moment(review.since),
        review.decision or "waits",
        review.by or "",
        moment(review.at),
        review.reason or "",
    ]


def _shown(review: Review) -> str:
    return f"{review.pipeline_id} (SIMULATOR)" if review.simulated else review.pipeline_id
