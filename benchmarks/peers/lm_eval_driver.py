"""lm-eval on the rows: its command with local-chat-completions, 128 at once, a task a stage, samples logged.

A task takes its sampling and schema once, so rows are grouped by stage. Seen with 0.4.13: with several requests at once
it sends the first task's schema for all of them; the cost of a request is the same. The system message is the task's
description, so that the messages are the agents' own.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from benchmarks.peers.work import SCORERS, Job, Row, by_stage, done, job, read_rows

_AT_ONCE = 128


def main() -> None:
    """Write the tasks and run the command in this process."""
    work = job()
    os.environ |= {"HF_HOME": str(work.folder / "hf"), "HF_DATASETS_OFFLINE": "1", "OPENAI_API_KEY": "EMPTY"}
    stages = by_stage(read_rows(work.rows))
    for stage, rows in stages.items():
        write_task(work.folder, stage, rows)
    from lm_eval.__main__ import cli_evaluate  # type: ignore[import-not-found]

    sys.argv = ["lm_eval", *arguments(work, list(stages))]
    cli_evaluate()
    done(sum(len(path.read_text("utf8").splitlines()) for path in (work.folder / "out").rglob("samples_*.jsonl")))


def arguments(work: Job, stages: list[str]) -> list[str]:
    """The command line of `lm_eval run`."""
    where = f"model={work.model},base_url={work.base_url}/chat/completions,num_concurrent={_AT_ONCE}"
    return [
        *("run", "--model", "local-chat-completions"),
        *("--model_args", f"{where},tokenized_requests=False,tokenizer_backend=None"),
        *("--tasks", ",".join(f"plumbline_{stage}" for stage in stages)),
        *("--include_path", str(work.folder), "--apply_chat_template", "--log_samples"),
        *("--output_path", str(work.folder / "out")),
    ]


def write_task(folder: Path, stage: str, rows: list[Row]) -> None:
    """A task file for one stage and its data. YAML has JSON in it, but for the reference to the scoring function."""
    data = folder / f"{stage}.jsonl"
    lines = [{"system": system(row), "user": row.messages[-1]["content"], "words": row.words} for row in rows]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf8")
    task = {
        "task": f"plumbline_{stage}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "generate_until",
        "description": "{{system}}",
        "doc_to_text": "{{user}}",
        "doc_to_target": "",
        "generation_kwargs": {"until": [], **rows[0].options},
        "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in SCORERS],
    }
    text = "".join(f"{key}: {json.dumps(value)}\n" for key, value in task.items())
    (folder / f"{stage}.yaml").write_text(f"{text}process_results: !function scoring.process_results\n", "utf8")
    (folder / "scoring.py").write_text("from benchmarks.peers.lm_eval_driver import process_results\n", "utf8")


def system(row: Row) -> str:
    """The system message; every row has one, and then the user's."""
    return row.messages[0]["content"]


def process_results(doc: dict[str, list[str]], results: list[str]) -> dict[str, float]:
    """What lm-eval calls for each answer."""
    return {name: score(results[0], doc["words"]) for name, score in SCORERS.items()}


if __name__ == "__main__":
    main()
