"""The suite file: what it may say, and what is checked before the first call."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.asking.variant import prompt_names
from agents.labels.policy import policy_names
from agents.specialists.registry import stages
from common.console import BadInput, CannotJudge
from evals.case import dump_cases
from evals.generate import generate
from evals.plan import Plan, difference, load_plan
from evals.suite import Suite

ROOT = Path(__file__).parents[2]
RIGHT = """\
name: small
prompts: [write, read]
cases: {count: 4, seed: 3}
"""

PROMPTS, POLICIES = ", ".join(prompt_names()), ", ".join(policy_names())
OR_FILE = "or a path ending in .yaml"
NONE_GIVEN = "list should have at least 1 item after validation, not 0"
TOO_LOW = "input should be greater than or equal to 1"
KEYS = ", ".join(Suite.model_fields)
ONE_WAY = "suite.yaml:3: cases: give one of curated: true, count (and seed), or file"
NOBODY = "http://127.0.0.1:9/v1"
Start = Callable[..., str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    return tmp_path


def planned(text: str, base_url: str | None = NOBODY) -> Plan:
    Path("suite.yaml").write_text(text)
    return load_plan(Path("suite.yaml"), None if "models:" in text and base_url is NOBODY else base_url)[0]


def refusal(text: str, base_url: str = NOBODY) -> str:
    with pytest.raises(BadInput) as refused:
        planned(text, base_url)
    return str(refused.value)


def prompt(name: str, ask: str = "{{ facts }}") -> str:
    document = {"name": name, "version": 1, "description": "d", "ask": "write"}
    return json.dumps(document | {"stages": {stage: {"ask": ask} for stage in stages()}})


# --- what a plan holds -----------------------------------------------------------------------------------


def test_a_plan_holds_every_combination_named_by_the_axes_that_vary(folder: Path, start_simulator: Start) -> None:
    url = start_simulator()
    plan = planned(
        RIGHT.replace("read", "write_all")
        + f"models: [{{name: a, base_url: {url!r}}}, {{name: b, base_url: {url!r}}}]\n"
        + "sampling: [{name: as prompt}, {name: hot, temperature: 1.5, constrained: false}]\n"
        + "repeats: 3\nbaseline: write_all/b/hot\n"
    )
    assert [variant.name for variant in plan.variants] == [
        f"{one}/{model}/{sampling}"
        for one in ("write", "write_all")
        for model in ("a", "b")
        for sampling in ("as prompt", "hot")
    ]
    assert (plan.samples, plan.baseline, plan.simulated) == (4 * 8 * 3, "write_all/b/hot", True)
    hot, cool = plan.variants[1].prompt, plan.variants[0].prompt
    assert (hot.sampling.temperature, hot.constrained, cool.constrained) == (1.5, False, True)
    assert hot.sampling.max_tokens == cool.sampling.max_tokens


def test_one_combination_goes_by_its_prompts_name(folder: Path, start_simulator: Start) -> None:
    plan = planned(RIGHT.replace("write, read", "write"), start_simulator(model="tiny"))
    assert [(one.name, one.model.name, one.model.model) for one in plan.variants] == [("write", "tiny", "tiny")]


def test_every_sample_has_a_place_and_every_place_a_sample(folder: Path, start_simulator: Start) -> None:
    plan = planned(RIGHT + "repeats: 3\n", start_simulator())
    places = [plan.place(index) for index in range(plan.samples)]
    assert len(set(places)) == 4 * 2 * 3
    assert [plan.index(*place) for place in places] == list(range(plan.samples))
    assert places[:4] == [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 0)]


def test_a_plan_read_back_is_the_same_plan(folder: Path, start_simulator: Start) -> None:
    plan = planned(RIGHT + "gate: {}\nmetamorphic: {relations: [rename_pipeline], cases: 2}\n", start_simulator())
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_the_example_suite_is_at_least_two_prompts_on_24_cases(start_simulator: Start) -> None:
    plan, cases = load_plan(ROOT / "examples" / "suite.yaml", start_simulator())
    assert len(plan.variants) >= 2
    assert len(cases) >= 24


def test_a_suites_parameters_go_over_those_of_each_prompt(folder: Path, start_simulator: Start) -> None:
    Path("a.yaml").write_text(
        json.dumps(json.loads(prompt("mine")) | {"parameters": {"add": {"top_k": 1, "min_p": 0}}})
    )
    plan = planned(
        RIGHT.replace("write, read", "write, a.yaml") + "parameters: {add: {top_k: 5}, leave_out: [seed]}\n",
        start_simulator(),
    )
    plain, mine = (variant.prompt.parameters for variant in plan.variants)
    assert (plain.add, plain.leave_out) == ({"top_k": 5}, ("seed",))
    assert (mine.add, mine.leave_out) == ({"top_k": 5, "min_p": 0}, ("seed",))


def test_a_case_file_is_found_beside_the_suite(tmp_path: Path, start_simulator: Start) -> None:
    (tmp_path / "own.jsonl").write_text(dump_cases(generate(3, 9)))
    suite = tmp_path / "suite.yaml"
    suite.write_text("name: a\nprompts: [write]\ncases: {file: own.jsonl}\n")
    _, cases = load_plan(suite, start_simulator())
    assert list(cases) == generate(3, 9)


def test_prompt_and_policy_files_are_found_beside_the_suite(
    folder: Path, tmp_path: Path, start_simulator: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = tmp_path / "suites"
    beside.mkdir()
    (beside / "mine.yaml").write_text(prompt("mine"))
    (beside / "strict.yaml").write_text((ROOT / "agents" / "labels" / "policies" / "standard.yaml").read_text())
    Path("mine.yaml").write_text(prompt("of the working folder"))
    text = RIGHT.replace("write, read", "write, ./mine.yaml") + "policies: [strict.yaml]\n"
    (beside / "suite.yaml").write_text(text)
    plan, _ = load_plan(Path("suites/suite.yaml"), start_simulator())
    assert [variant.name for variant in plan.variants] == ["write", "mine"]
    # Where the suite lies is no part of what is asked: the plan holds the names as they were written.
    assert (plan.suite.prompts, plan.suite.policies) == (["write", "./mine.yaml"], ["strict.yaml"])
    (beside / "mine.yaml").unlink()
    with pytest.raises(BadInput, match=r"^suites/suite\.yaml: suites/mine\.yaml: there is no such file$"):
        load_plan(Path("suites/suite.yaml"), NOBODY)


def test_metamorphic_cases_follow_the_others(folder: Path, start_simulator: Start) -> None:
    Path("suite.yaml").write_text(RIGHT + "metamorphic: {relations: [rename_pipeline], cases: 2}\n")
    plan, cases = load_plan(Path("suite.yaml"), start_simulator())
    assert [case.relation for case in cases] == [None] * 4 + ["rename_pipeline"] * 2
    assert plan.cases == 6


def test_curated_cases_are_at_least_sixty(folder: Path, start_simulator: Start) -> None:
    assert planned(RIGHT.replace("count: 4, seed: 3", "curated: true"), start_simulator()).cases >= 60


# --- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("write, read", "write, fancy", f"suite.yaml: prompt 'fancy' is not known; known: {PROMPTS}, {OR_FILE}"),
        ("write, read", "write, write", "suite.yaml:2: prompts: 'write' stands twice"),
        ("write, read", "", f"suite.yaml:2: prompts: found []; {NONE_GIVEN}"),
        ("count: 4, seed: 3", "count: 4, file: a.jsonl", ONE_WAY),
        ("count: 4, seed: 3", "count: 4, curated: true", ONE_WAY),
        ("count: 4, seed: 3", "seed: 3", ONE_WAY),
        ("count: 4, seed: 3", "curated: true, seed: 3", "suite.yaml:3: cases: seed goes with count"),
        ("count: 4", "count: 0", f"suite.yaml:3: cases.count: found 0; {TOO_LOW}"),
        ("count: 4, seed: 3", "file: gone.jsonl", "suite.yaml: gone.jsonl: cannot be read (No such file or directory)"),
        ("name: small", "name: small\npolicies: [harsh]",
         f"suite.yaml: policy 'harsh' is not known; known: {POLICIES}, {OR_FILE}"),
        ("name: small", "name: small\nmodel: big", f"suite.yaml:2: unknown key 'model'; allowed: {KEYS}"),
        ("name: small", "name: small\nconcurrency: 0", f"suite.yaml:2: concurrency: found 0; {TOO_LOW}"),
        ("name: small", "name: small\nsampling: [{name: a}, {name: a, seed: 1}]",
         "suite.yaml:2: sampling: 'a' stands twice"),
        ("name: small", "name: small\nsampling: [{name: a, seed: -1}]",
         "suite.yaml:2: sampling.0.seed: found -1; input should be greater than or equal to 0"),
        ("name: small", f"name: small\nsampling: [{{name: a, seed: {2**64}}}]",
         f"suite.yaml:2: sampling.0.seed: found {2**64}; input should be less than or equal to {2**53}"),
        ("name: small", "name: small\nguardrails: [off]", f"suite.yaml:2: unknown key 'guardrails'; allowed: {KEYS}"),
        ("name: small", "name: small\nparameters: {add: {messages: []}}",
         "suite.yaml:2: parameters.add: 'messages' belongs to every request and cannot be changed"),
        ("cases: {count: 4, seed: 3}", "", "suite.yaml:1: cases: is missing"),
        ("name: small", "name: [", "suite.yaml:3: is not YAML: did not find expected ',' or ']'"),
        (RIGHT, "", "suite.yaml: is empty"),
    ],
)  # fmt: skip
def test_a_wrong_suite_gets_one_line(folder: Path, old: str, new: str, message: str) -> None:
    assert refusal(RIGHT.replace(old, new)) == message


def test_ten_megabytes_where_a_name_should_be_get_a_short_line(folder: Path) -> None:
    for line in ("policies: [{}]\n", "prompts: [write, {}]\n"):
        text = RIGHT.replace("prompts: [write, read]\n", "") if line.startswith("prompts") else RIGHT
        assert len(refusal(text + line.format("x" * 10**7))) < 400


def test_two_prompt_files_may_not_carry_one_name(folder: Path, start_simulator: Start) -> None:
    Path("a.yaml").write_text(prompt("same"))
    Path("b.yaml").write_text(prompt("same", "{{ facts }} b"))
    message = refusal(RIGHT.replace("write, read", "a.yaml, b.yaml"), start_simulator())
    assert message == "suite.yaml: variants: 'same' is the name of two; names in prompts and policies must differ"


def test_a_sampling_that_has_no_effect_on_a_prompt_is_no_variant(folder: Path, start_simulator: Start) -> None:
    message = refusal(RIGHT + "sampling: [{name: free, constrained: false}]\n", start_simulator())
    assert message == "suite.yaml: variant 'read': prompt: constrained: has no effect where ask is read"


def test_a_prompt_that_fails_on_any_case_is_refused_before_the_first_call(folder: Path) -> None:
    Path("a.yaml").write_text(prompt("mine", "{{ label.value }}"))  # ingestion has no label
    message = refusal(RIGHT.replace("write, read", "a.yaml"))
    assert message.startswith("suite.yaml: case r01-0000: prompt mine: stage ingestion: ")


def test_a_baseline_is_one_of_the_variants(folder: Path, start_simulator: Start) -> None:
    message = refusal(RIGHT + "baseline: brief\n", start_simulator())
    assert message == "suite.yaml: baseline: found 'brief'; allowed: write, read"


def test_more_samples_than_fit_in_memory_are_refused(
    folder: Path, start_simulator: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evals.plan.MOST_SAMPLES", 7)
    message = refusal(RIGHT, start_simulator())
    assert message == "suite.yaml: the matrix has 8 samples; allowed are 7: split it into suites"


def test_an_unknown_relation_names_those_there_are(folder: Path) -> None:
    message = refusal(RIGHT + "metamorphic: {relations: [shout]}\n")
    assert message.startswith("suite.yaml: metamorphic.relations: found 'shout'; allowed: all, or rename_pipeline, ")


# --- endpoints -------------------------------------------------------------------------------------------


def test_every_model_has_to_be_up_and_served(folder: Path, start_simulator: Start) -> None:
    url = start_simulator()
    models = f"models: [{{name: up, base_url: {url!r}}}, {{name: down, base_url: {NOBODY!r}}}]\n"
    with pytest.raises(CannotJudge, match=r"^models: down: no endpoint answers at http://127.0.0.1:9/v1 "):
        planned(RIGHT + models)
    other = f"models: [{{name: up, base_url: {url!r}, model: large}}]\n"
    assert refusal(RIGHT + other).startswith("suite.yaml: models: up: --model: 'large' is not served at ")


def test_a_suite_that_names_its_models_takes_no_other(folder: Path, start_simulator: Start) -> None:
    url = start_simulator()
    message = refusal(RIGHT + f"models: [{{name: up, base_url: {url!r}}}]\n", url)
    assert message.endswith("leave out --base-url, or models")


def test_a_key_in_an_address_is_refused_and_not_told(folder: Path) -> None:
    message = refusal(RIGHT + "models: [{name: up, base_url: 'http://user:sk-secret@127.0.0.1/v1'}]\n")
    assert "sk-secret" not in message
    assert message.startswith("suite.yaml: models: up: ")


# --- two halves of one run -------------------------------------------------------------------------------


def test_plans_differ_by_what_changes_an_answer_and_not_by_the_pace(folder: Path, start_simulator: Start) -> None:
    first = planned(RIGHT, start_simulator())
    assert difference(first, planned(RIGHT + "concurrency: 2\ntimeout_s: 5\ngate: {}\n", start_simulator())) is None
    assert difference(first, planned(RIGHT + "repeats: 2\n", start_simulator())) == "suite.repeats was '1' and is '2'"
    other = difference(first, planned(RIGHT.replace("seed: 3", "seed: 4"), start_simulator()))
    assert other == "suite.cases.seed was '3' and is '4'"
