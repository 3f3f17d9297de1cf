"""Which way to ask decides best: prompts and what they offer, beside rules, chance and the best constant answer.

    python -m serving start --background
    python -m benchmarks.decision_ways --out DIR [--ways write:permitted,read:all] [--cases generated:240:7] [--json]

A way is a packaged prompt (or a YAML file) and what it offers: `write:permitted`. Every case is asked once about its
stage, at the prompt's own sampling, and scored by the evaluation's scorers; means have 95 % intervals by family. What
failed at the endpoint is unscored and counted. Rules and baselines need no endpoint. Chance picks one choice and two
actions, each as likely as any other. The constant answer is one for all cases of a stage, with up to three actions:
the one that is best on all other families.

Tokens are those of the decision's own requests, as the endpoint counts them; readings of a prior, made once for all
cases, are in the seconds alone. The engine's prefix cache is not emptied between ways, which share some first words.

Each answer is a line in DIR/WAY.jsonl. The same command again goes on with the ways that are not there whole.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from statistics import mean
from typing import Annotated

import orjson
import typer
import uvloop
from pydantic import ValidationError

from agents.asking.answerer import ask
from agents.asking.endpoint.client import ChatClient, make_client
from agents.asking.endpoint.reply import EndpointFailed
from agents.asking.question import question_for
from agents.asking.variant import PromptVariant, load_prompt
from agents.labels.label import Label
from agents.labels.policy import DEFAULT_POLICY, Policy, load_policy
from agents.specialists.decision import Decision, Picked
from agents.specialists.registry import Labels, specialist_of, stages
from agents.specialists.rules import permitted, rules_decision
from common import console
from common.console import BadInput, CannotJudge, say, shorten
from common.strict import Strict
from evals.baselines import Pick, best_constants, chance
from evals.case import Case, curated_cases, dump_cases
from evals.generate import generate
from evals.labels import case_labels
from evals.scorers import Answered, score_all
from evals.statistics import Estimate, estimate
from serving.endpoint import Endpoint, connect
from tracking.runs import git_sha

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

OFFERS = ("permitted", "all")
WAYS = ",".join(f"{prompt}:{offer}" for prompt in ("write", "read", "reason") for offer in OFFERS)
HEADLINE = "headline"
_TIMEOUT_S = 1800.0

Scores = dict[str, float]
Scored = tuple[Case, Scores]


class Asked(Strict):
    """One case under one way, as it is kept."""

    case_id: str
    decision: Decision | None = None
    problem: str | None = None
    error: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int | None = None
    output_tokens: int = 0


class Head(Strict):
    """The first line of a way's file: only what was asked alike is put in one table."""

    way: str
    model: str
    endpoint: str
    policy: str
    cases: str
    """Which, and a digest of them."""
    variant: PromptVariant
    git_sha: str
    cpus: int | None
    concurrency: int

    def same(self, other: Head) -> bool:
        """Whether the answers of both may stand in one table."""
        ours, theirs = (one.model_dump(exclude={"endpoint", "git_sha", "cpus", "concurrency"}) for one in (self, other))
        return ours == theirs


@dataclass(frozen=True)
class Cost:
    """What a way's answers took; tokens are means over cases."""

    seconds: float
    failed: int
    """Cases that the endpoint did not answer."""
    output_tokens: float | None
    prompt_tokens: float | None
    cached: float | None
    """Share of the prompt tokens that the engine had in its prefix cache; None where it does not say."""
    label_mass: float | None
    """Mean over the decisions that have one."""


@dataclass(frozen=True)
class Line:
    """One row of the table."""

    way: str
    headline: Estimate
    means: Mapping[str, float]
    """By scorer, over the cases that it has something to say of."""
    stages: Mapping[str, float]
    """The mean headline of each stage's cases."""
    cost: Cost | None = None
    """None without a model."""


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="Folder of the answers; made if it is not there.")],
    ways: Annotated[str, typer.Option(help="Comma-separated PROMPT:OFFER; offers: permitted, all.")] = WAYS,
    cases: Annotated[str, typer.Option(help="curated, or generated:COUNT:SEED.")] = "curated",
    policy: Annotated[str, typer.Option(help="Gives the labels.")] = DEFAULT_POLICY,
    concurrency: Annotated[int, typer.Option(min=1, help="Cases asked about at once.")] = 16,
    base_url: Annotated[str | None, typer.Option(help="Endpoint; else OPENAI_BASE_URL, else the started one.")] = None,
    model: Annotated[str | None, typer.Option(help="Model to ask for; else the first one served.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document on stdout, also in DIR/table.json.")
    ] = False,
) -> None:
    """Ask every way, and print the table."""
    asked = chosen(ways)
    bench = Bench(named_cases(cases), cases, load_policy(policy))
    endpoint = connect(base_url, model) if asked else None
    out.mkdir(parents=True, exist_ok=True)
    lines = []
    for way, variant in asked.items():
        if endpoint:
            lines.append(bench.line_of(way, *bench.asked(way, variant, endpoint, concurrency, out)))
            say(f"{way}: headline {lines[-1].headline}")
    lines += bench.without_model()
    title = f"{endpoint.model if endpoint else 'no model'}, {len(bench.cases)} cases ({cases}), policy {policy}"
    report(lines, f"SIMULATED: {title}" if endpoint and endpoint.simulated else title)
    document = {
        "condition": title,
        "git_sha": git_sha(),
        "cpus": os.cpu_count(),
        "lines": [asdict(one) for one in lines],
    }
    (out / "table.json").write_text(json.dumps(document, indent=2) + "\n", "utf8")
    if as_json:
        print(json.dumps(document, indent=2))


def chosen(ways: str) -> dict[str, PromptVariant]:
    """The prompts by way; none for an empty list. Raises BadInput."""
    found = {}
    for way in filter(None, ways.split(",")):
        prompt, _, offer = way.rpartition(":")
        if offer not in OFFERS or not prompt:
            raise BadInput(f"--ways: found {shorten(way, 80)!r}; allowed: PROMPT:OFFER, offers: {', '.join(OFFERS)}")
        found[way] = load_prompt(prompt).model_copy(update={"offer": offer})
    return found


def named_cases(name: str) -> list[Case]:
    """The cases by that name. Raises BadInput."""
    kind, *numbers = name.split(":")
    if name == "curated":
        return curated_cases()
    if kind == "generated" and len(numbers) == 2 and all(one.isdecimal() for one in numbers):
        return generate(int(numbers[0]), int(numbers[1]))
    raise BadInput(f"--cases: found {shorten(name, 80)!r}; allowed: curated, or generated:COUNT:SEED")


class Bench:
    """The cases with their labels, and how answers to them are scored."""

    def __init__(self, cases: Sequence[Case], name: str, policy: Policy) -> None:
        self.cases = cases
        self.name = f"{name} {sha256(dump_cases(cases).encode()).hexdigest()[:16]}"
        self.policy = policy
        self.labels: dict[str, Labels] = {case.id: case_labels(case, policy) for case in cases}
        self.permitted = {case.id: permitted(specialist_of(case.stage), case.spec, self._label(case)) for case in cases}

    # --- asking ---

    def asked(
        self, way: str, variant: PromptVariant, endpoint: Endpoint, concurrency: int, folder: Path
    ) -> tuple[list[Asked], float]:
        """The answers of one way and the seconds they took, from the folder where they are whole. Raises BadInput."""
        head = Head(
            way=way,
            model=endpoint.model,
            endpoint=endpoint.base_url,
            policy=sha256(self.policy.model_dump_json().encode()).hexdigest()[:16],
            cases=self.name,
            variant=variant,
            git_sha=git_sha(),
            cpus=os.cpu_count(),
            concurrency=concurrency,
        )
        path = folder / f"{way.replace(':', '-').replace('/', '_')}.jsonl"
        if path.exists():
            return read_whole(path, head)
        part = path.with_suffix(".part")
        seconds = uvloop.run(self._ask_all(variant, endpoint, concurrency, head, part))
        part.replace(path)
        return read_whole(path, head)[0], seconds

    async def _ask_all(
        self, variant: PromptVariant, endpoint: Endpoint, concurrency: int, head: Head, part: Path
    ) -> float:
        waiting = iter(self.cases)
        began_s = time.perf_counter()
        with part.open("wb") as file, console.progress("cases") as bar:
            file.write(head.model_dump_json().encode() + b"\n")
            task = bar.add_task(head.way, total=len(self.cases))
            async with make_client(endpoint, timeout_s=_TIMEOUT_S, concurrency=4 * concurrency) as client:

                async def worker() -> None:
                    for case in waiting:  # shared: each case is taken once
                        found = await self._ask(client, endpoint.model, variant, case)
                        file.write(found.model_dump_json(exclude_none=True).encode() + b"\n")
                        file.flush()
                        bar.advance(task)

                async with asyncio.TaskGroup() as workers:
                    for _ in range(concurrency):
                        workers.create_task(worker())
            seconds = time.perf_counter() - began_s
            file.write(orjson.dumps({"seconds": seconds}) + b"\n")
        return seconds

    async def _ask(self, client: ChatClient, model: str, variant: PromptVariant, case: Case) -> Asked:
        question = question_for(variant, case.stage, case.spec, self._label(case))
        try:
            answer = await ask(client, model, variant, question)
        except EndpointFailed as failure:
            return Asked(case_id=case.id, error=str(failure))
        cached = [reply.cached_tokens for reply in answer.replies]
        return Asked(
            case_id=case.id,
            decision=answer.decision,
            problem=answer.problem,
            prompt_tokens=sum(reply.prompt_tokens or 0 for reply in answer.replies),
            cached_tokens=None if None in cached else sum(one or 0 for one in cached),
            output_tokens=sum(reply.output_tokens or 0 for reply in answer.replies),
        )

    # --- scoring ---

    def scores(self, case: Case, decision: Decision | None, problem: str | None = None) -> Scores:
        """Each scorer's value for a decision on a case."""
        answered = Answered(case, self._label(case), self.permitted[case.id], decision, problem)
        return {name: score.value for name, score in score_all(answered).items()}

    def line_of(self, way: str, found: Sequence[Asked], seconds: float) -> Line:
        """The row of a way."""
        by_id = {case.id: case for case in self.cases}
        scored = [
            (by_id[one.case_id], self.scores(by_id[one.case_id], one.decision, one.problem))
            for one in found
            if one.error is None
        ]
        return line(way, scored, cost_of(found, seconds))

    def without_model(self) -> Iterator[Line]:
        """The rules, chance, and the best constant answer."""
        rules = ((one, rules_decision(specialist_of(one.stage), one.spec, self._label(one))) for one in self.cases)
        yield line("rules", [(case, self.scores(case, decision)) for case, decision in rules])
        for offer in OFFERS:
            yield line(f"chance:{offer}", [(case, {HEADLINE: self._chance(case, offer)}) for case in self.cases])
        yield line("constant", list(self._constants()))

    def _label(self, case: Case) -> Label | None:
        return self.labels[case.id][case.stage]

    def _chance(self, case: Case, offer: str) -> float:
        specialist = specialist_of(case.stage)
        choices, actions = specialist.choice.values, tuple(specialist.actions_by_id)
        if offer == "permitted":
            may = self.permitted[case.id]
            choices, actions = may.choices, may.actions
        return chance(case, choices, actions, self._earned)

    def _constants(self) -> Iterator[Scored]:
        """Cases of a stage that has one family alone have no constant answer."""
        for stage in stages():
            own = [case for case in self.cases if case.stage == stage]
            specialist = specialist_of(stage)
            picks = best_constants(own, specialist.choice.values, tuple(specialist.actions_by_id), self._earned)
            for case, pick in zip(own, picks, strict=True):
                if pick:
                    yield case, self.scores(case, decision_of(pick))

    def _earned(self, case: Case, pick: Pick) -> float:
        return self.scores(case, decision_of(pick))[HEADLINE]


def decision_of(pick: Pick) -> Decision:
    """A pick as if a model had decided so."""
    actions = tuple(Picked(id=one) for one in pick.actions)
    return Decision(by="model", choice=Picked(id=pick.choice), actions=actions)


def line(way: str, scored: Sequence[Scored], cost: Cost | None = None) -> Line:
    """The means of some cases' scores. Raises CannotJudge when there is none."""
    if not scored:
        raise CannotJudge(f"{way}: no case was answered")
    names = dict.fromkeys(name for _, scores in scored for name in scores)
    by_stage = {stage: [scores[HEADLINE] for case, scores in scored if case.stage == stage] for stage in stages()}
    return Line(
        way=way,
        headline=estimate([scores[HEADLINE] for _, scores in scored], [case.family for case, _ in scored]),
        means={name: mean(scores[name] for _, scores in scored if name in scores) for name in names},
        stages={stage: mean(values) for stage, values in by_stage.items() if values},
        cost=cost,
    )


def cost_of(found: Sequence[Asked], seconds: float) -> Cost:
    """What the answers took."""
    sound = [one for one in found if one.error is None]
    prompts = sum(one.prompt_tokens for one in sound)
    cached = [one.cached_tokens for one in sound]
    masses = [one.decision.reading.label_mass for one in sound if one.decision and one.decision.reading]
    known = [mass for mass in masses if mass is not None]
    return Cost(
        seconds=seconds,
        failed=len(found) - len(sound),
        output_tokens=mean(one.output_tokens for one in sound) if sound else None,
        prompt_tokens=prompts / len(sound) if sound else None,
        cached=sum(one or 0 for one in cached) / prompts if prompts and None not in cached else None,
        label_mass=mean(known) if known else None,
    )


def read_whole(path: Path, head: Head) -> tuple[list[Asked], float]:
    """The answers of a way that was asked to its end, and the seconds. Raises BadInput for those of another setup."""
    first, *lines, last = path.read_bytes().splitlines()
    try:
        before = Head.model_validate_json(first)
    except ValidationError:
        before = None
    if before is None or not before.same(head):
        raise BadInput(f"{path}: was asked of another model, prompt, policy or cases; give another --out")
    return [Asked.model_validate_json(one) for one in lines], float(orjson.loads(last)["seconds"])


def report(lines: Sequence[Line], title: str) -> None:
    """What the ways earn, and what those with a model cost; one line a way."""
    names = ("choice", "harmless", "decided", "permitted")
    right = ["n", "headline", *stages(), *names]
    rows = [
        [
            *(one.way, one.headline.n, str(one.headline)),
            *(_told(one.stages.get(stage), 2) for stage in stages()),
            *(_told(one.means.get(name), 2) for name in names),
        ]
        for one in lines
    ]
    console.table(f"{title}; means, 95 % intervals by family", ["way", *right], rows, right=right)
    costs = ["tokens out", "prompt tokens", "cached", "label mass", "s", "failed"]
    rows = [
        [
            *(one.way, _told(one.cost.output_tokens, 1), _told(one.cost.prompt_tokens, 0), _told(one.cost.cached, 2)),
            *(_told(one.cost.label_mass, 2), _told(one.cost.seconds, 0), one.cost.failed),
        ]
        for one in lines
        if one.cost
    ]
    if rows:
        console.table("what an answer costs, mean over cases; seconds for all", ["way", *costs], rows, right=costs)


def _told(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    console.run(app)
