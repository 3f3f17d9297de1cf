"""Files that come in: what is right loads as it is, what is wrong gets one line that says where and why."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.facts.pipeline_files import LONGEST_LINE, InvalidPipeline, PipelineFiles, ReadPipeline, read_pipelines
from agents.facts.spec import InfrastructureMetrics, PipelineFacts, PipelineSpec, QualityMetrics, Source
from common.console import BadInput
from common.located import load_yaml_model

ROOT = Path(__file__).parents[3]
ALLOWED = ", ".join(PipelineFacts.model_fields)
QUALITY = ", ".join(QualityMetrics.model_fields)
MACHINES = "infrastructure_metrics"
INFRASTRUCTURE = ", ".join(InfrastructureMetrics.model_fields)

MISSION = {
    "id": "ecommerce_pipeline_001",
    "source": {"type": "REST API", "volume": "10GB/day", "frequency": "real-time"},
    "quality_metrics": {"completeness": 87, "consistency": 92, "issues": 15},
    "infrastructure_metrics": {
        "cpu_usage": 78,
        "memory_usage": 82,
        "storage_used": 450,
        "storage_total": 1000,
        "query_latency": 250,
    },
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, so that messages hold bare file names."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(name: str, text: str | bytes) -> Path:
    path = Path(name)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(name: str, text: str | bytes) -> list[ReadPipeline | InvalidPipeline]:
    return read_pipelines([written(name, text)])


def errors(name: str, text: str | bytes) -> list[str]:
    return [entry.error for entry in read(name, text) if isinstance(entry, InvalidPipeline)]


def quality(text: str) -> str:
    """A YAML pipeline whose fourth line is `text`, a quality metric."""
    return f"id: a\nsource: {{type: x}}\nquality_metrics:\n  {text}\n"


def infrastructure(text: str) -> str:
    return f"id: a\nsource: {{type: x}}\ninfrastructure_metrics:\n  {text}\n"


# --- what is right ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["one object", "list", "under pipelines", "jsonl", "yaml"])
def test_the_missions_keys_load_as_they_are(folder: Path, form: str) -> None:
    text = {
        "one object": json.dumps(MISSION, indent=1),
        "list": json.dumps([MISSION]),
        "under pipelines": json.dumps({"pipelines": [MISSION]}),
        "jsonl": json.dumps(MISSION) + "\n",
        "yaml": json.dumps(MISSION),
    }[form]
    suffix = form if form in {"jsonl", "yaml"} else "json"
    [entry] = read(f"a.{suffix}", text)
    assert isinstance(entry, ReadPipeline)
    assert entry.spec.model_dump(exclude_none=True, exclude_defaults=True) == {
        "id": "ecommerce_pipeline_001",
        "source": {"type": "REST API", "volume": "10 GB/day", "frequency": "real-time"},
        "quality_metrics": {"completeness_percent": 87.0, "consistency_percent": 92.0, "issue_count": 15},
        "infrastructure_metrics": {
            "cpu_percent": 78.0,
            "memory_percent": 82.0,
            "storage_used_gb": 450.0,
            "storage_total_gb": 1000.0,
            "query_latency_ms": 250.0,
        },
    }


def test_the_example_file_holds_the_missions_two_pipelines() -> None:
    entries = read_pipelines([ROOT / "examples" / "pipelines.yaml"])
    assert [entry.spec.id for entry in entries if isinstance(entry, ReadPipeline)] == [
        "ecommerce_pipeline_001",
        "iot_sensor_pipeline_002",
    ]


def test_a_missing_metric_stays_missing(folder: Path) -> None:
    [entry] = read("a.yaml", "id: a\nsource: {type: x}\n")
    assert isinstance(entry, ReadPipeline)
    assert entry.spec.quality_metrics.completeness_percent is None
    assert entry.spec.infrastructure_metrics.cpu_percent is None


def test_entries_say_where_they_stand(folder: Path) -> None:
    item = '{"id": "%s", "source": {"type": "x"}}'
    one, two = item % "a", item % "b"
    assert [entry.where for entry in read("a.yaml", f"- {one}\n\n- {two}\n")] == ["a.yaml:1", "a.yaml:3"]
    assert [entry.where for entry in read("a.jsonl", f"{one}\n\n{two}\n")] == ["a.jsonl:1", "a.jsonl:3"]
    assert [entry.where for entry in read("a.json", f"[{one}, {two}]")] == ["a.json: entry 1", "a.json: entry 2"]
    assert [entry.where for entry in read("a.json", one)] == ["a.json"]


@pytest.mark.parametrize("suffix", ["json", "jsonl", "yaml"])
def test_a_byte_order_mark_is_no_part_of_the_text(folder: Path, suffix: str) -> None:
    [entry] = read(f"a.{suffix}", '\ufeff{"id": "a", "source": {"type": "x"}}')
    assert isinstance(entry, ReadPipeline)


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85"])
def test_a_line_separator_inside_a_json_string_ends_no_line(folder: Path, character: str) -> None:
    line = json.dumps({"id": f"a{character}b", "source": {"type": "x"}}, ensure_ascii=False)
    entries = read("a.jsonl", f"{line}\n")
    assert [entry.spec.id for entry in entries if isinstance(entry, ReadPipeline)] == [f"a{character}b"]


TOO_LOW = "input should be greater than or equal to 0"
TOO_HIGH = "input should be less than or equal to 100"


# --- an entry that is wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (quality("completeness: 140"), f":4: quality_metrics.completeness: found 140; {TOO_HIGH}"),
        (quality("completeness: -3"), f":4: quality_metrics.completeness: found -3; {TOO_LOW}"),
        (quality("completeness: 87%"), ":4: quality_metrics.completeness: found '87%'; input should be a valid number"),
        (quality("completeness: true"), ":4: quality_metrics.completeness: found True; input should be a valid number"),
        (quality("completeness: .nan"), ":4: quality_metrics.completeness: found nan; input should be a finite number"),
        (quality("completeness: .inf"), ":4: quality_metrics.completeness: found inf; input should be a finite number"),
        (quality("issues: 1.5"), ":4: quality_metrics.issues: found 1.5; input should be a valid integer"),
        (quality("complete: 87"), f":4: unknown key 'quality_metrics.complete'; allowed: {QUALITY}"),
        (infrastructure("storage_used: -1"), f":4: {MACHINES}.storage_used: found -1; {TOO_LOW}"),
        (infrastructure("storage_total: 0"), f":4: {MACHINES}.storage_total: found 0; input should be greater than 0"),
        (infrastructure("{storage_used: 5, storage_total: 4}"),
         f":3: {MACHINES}: storage_used_gb 5 is more than storage_total_gb 4"),
        (infrastructure("{cpu: 5, cpu_usage: 95}"), f":4: unknown key '{MACHINES}.cpu'; allowed: {INFRASTRUCTURE}"),
        ("id: a\nsource: {type: x}\nowner: me\n", f":3: unknown key 'owner'; allowed: {ALLOWED}"),
        ("id: a\nsource: x\n", f":2: source: found 'x'; allowed: a mapping of {', '.join(Source.model_fields)}"),
        ("id: a\nsource: {type: ''}\n", ":2: source.type: found ''; string should have at least 1 character"),
        ("id: 7\nsource: {type: x}\n", ":1: id: found 7; input should be a valid string"),
        ("source: {type: x}\n", ":1: id: is missing"),
        ("- 5\n", f":1: entry: found 5; allowed: a mapping of {ALLOWED}"),
        ("[null]\n", f":1: entry: found None; allowed: a mapping of {ALLOWED}"),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_a_row_with_one_line(folder: Path, text: str, message: str) -> None:
    assert errors("a.yaml", text) == [f"a.yaml{message}"]


def test_a_wrong_entry_of_a_json_list_is_named_by_its_number_and_keeps_its_id(folder: Path) -> None:
    text = json.dumps([MISSION, {**MISSION, "id": "second", "quality_metrics": {"completeness": 140}}])
    right, wrong = read("a.json", text)
    assert isinstance(right, ReadPipeline)
    assert isinstance(wrong, InvalidPipeline)
    assert wrong.pipeline_id == "second"
    assert wrong.error == f"a.json: entry 2: quality_metrics.completeness: found 140; {TOO_HIGH}"


def test_one_broken_line_of_a_jsonl_file_keeps_the_others(folder: Path) -> None:
    line = json.dumps(MISSION)
    entries = read("a.jsonl", f'{line}\n{{"id": "b", "source":\nNaN\n{line.replace("001", "002")}\n')
    assert [type(entry) for entry in entries] == [ReadPipeline, InvalidPipeline, InvalidPipeline, ReadPipeline]
    assert isinstance(entries[1], InvalidPipeline)
    assert entries[1].error.startswith("a.jsonl:2: is not JSON: Expecting value")


@pytest.mark.parametrize("suffix", ["yaml", "json", "jsonl"])
def test_the_second_entry_with_one_id_is_refused(folder: Path, suffix: str) -> None:
    one = json.dumps({"id": "a", "source": {"type": "x"}})
    first, second = read(f"a.{suffix}", f"{one}\n{one}\n" if suffix == "jsonl" else f"[{one},\n {one}]")
    assert isinstance(first, ReadPipeline)
    assert isinstance(second, InvalidPipeline)
    assert second.error == f"{second.where}: id: 'a' is taken by {first.where}; ids must differ"


def test_an_id_must_differ_between_files_too(folder: Path) -> None:
    one = json.dumps({"id": "a", "source": {"type": "x"}})
    _, second = read_pipelines([written("a.json", one), written("b.jsonl", one)])
    assert isinstance(second, InvalidPipeline)
    assert second.error == "b.jsonl:1: id: 'a' is taken by a.json; ids must differ"


def test_more_than_three_problems_are_counted(folder: Path) -> None:
    [error] = errors("a.json", json.dumps({"id": "a", "source": {"type": "x"}, **{f"k{n}": n for n in range(9)}}))
    assert error.endswith("(and 6 more)")
    assert "k2" in error
    assert "k3" not in error


# --- a file that is wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "id: [a\n", "a.yaml:2: is not YAML: did not find expected ',' or ']'"),
        ("a.yaml", "id: a\n\tsource: x\n", "a.yaml:2: is not YAML: found a tab character that violates indentation"),
        ("a.yaml", "id: a\nid: b\n", "a.yaml:2: is not YAML: key 'id' stands twice"),
        ("a.yaml", "id: a\n---\nid: b\n", "a.yaml:2: is not YAML: but found another document"),
        ("a.yaml", "id: *nowhere\n", "a.yaml:1: is not YAML: found undefined alias"),
        ("a.yaml", "? [a]\n: b\n", "a.yaml:1: is not YAML: found unhashable key"),
        ("a.yaml", "just words", "a.yaml: found 'just words'; allowed: a list of pipelines, or one pipeline"),
        ("a.json", '"just words"', "a.json: found 'just words'; allowed: a list of pipelines, or one pipeline"),
        ("a.json", "[1,\n2", "a.json:2: is not JSON: Expecting ',' delimiter"),
        ("a.json", '{"id": "a", "id": "b"}', "a.json: is not JSON: key 'id' stands twice"),
        ("a.json", "[]", "a.json: holds no pipeline"),
        ("a.json", '{"pipelines": [{}], "version": 1}', "a.json: unknown key 'version' beside 'pipelines'"),
        ("a.yaml", "", "a.yaml: is empty"),
        ("a.yaml", " \n\n", "a.yaml: is empty"),
        ("a.yaml", "# only a comment\n", "a.yaml: is empty"),
        ("a.jsonl", "\n", "a.jsonl: is empty"),
        ("a.yaml", b"id: caf\xe9\n", "a.yaml: is not UTF-8 text (byte 7)"),
        ("a.csv", "id,source\n", "a.csv: ends in '.csv'; allowed: .yaml, .yml, .json, .jsonl"),
        ("a", "id: a\n", "a: ends in ''; allowed: .yaml, .yml, .json, .jsonl"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_refused_in_one_line(
    folder: Path, name: str, text: str | bytes, message: str
) -> None:
    with pytest.raises(BadInput) as refused:
        read(name, text)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.yaml", "gone.yaml: there is no such file"),
        ("folder.yaml", "folder.yaml: is a folder; give a file"),
        ("file.yaml/inside.yaml", "file.yaml/inside.yaml: cannot be read (Not a directory)"),
    ],
)
def test_a_path_that_is_no_file_is_refused_in_one_line(folder: Path, name: str, message: str) -> None:
    (folder / "folder.yaml").mkdir()
    (folder / "file.yaml").write_text("id: a\n")
    with pytest.raises(BadInput) as refused:
        read_pipelines([Path(name)])
    assert str(refused.value) == message


def test_yaml_builds_no_objects(folder: Path) -> None:
    with pytest.raises(BadInput, match="could not determine a constructor"):
        read("a.yaml", f"!!python/object/apply:os.system ['touch {folder / 'touched'}']\n")
    assert not (folder / "touched").exists()


# --- files made to hurt ----------------------------------------------------------------------------------

NESTED_ALIASES = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
NESTED_MERGES = "a0: &a0 {k: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12)
)
TEN_MEGABYTES = "x" * 10_000_000


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "[" * 100_000),
        ("a.yaml", "- " * 100_000 + "x"),
        ("a.yaml", "{a: " * 100_000),
        ("a.json", "[" * 100_000),
        ("a.json", '{"a":' * 100_000),
        ("a.jsonl", "[" * 100_000),
        ("a.yaml", NESTED_ALIASES),
        ("a.yaml", NESTED_ALIASES.replace("a11:", "id:")),
        ("a.yaml", NESTED_MERGES),
        ("a.yaml", "&a [*a]\n"),
        ("a.yaml", "&a\nid: x\nsource: *a\n"),
        ("a.yaml", "&a\nid: x\nsource: {type: x}\nmore: *a\n"),
        ("a.json", "{" + ", ".join(f'"k{n}": 1' for n in range(50_000)) + ', "k49999": 2}'),
        ("a.json", '{"id": "a", "source": {"type": "x"}, "quality_metrics": {"completeness": ' + "9" * 5000 + "}}"),
        ("a.yaml", quality("completeness: " + "9" * 5000)),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else "",
)
def test_a_bomb_is_refused_quickly_in_one_short_line(folder: Path, name: str, text: str) -> None:
    started_s = time.perf_counter()
    try:
        [message] = errors(name, text)
    except BadInput as refused:
        message = str(refused)
    assert time.perf_counter() - started_s < 5
    assert "\n" not in message
    assert len(message) < 600


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", f"id: a\nsource: {{type: {TEN_MEGABYTES}}}\n"),
        ("a.json", f'{{"id": "a", "source": {{"type": "{TEN_MEGABYTES}"}}}}'),
        ("a.jsonl", f'{{"id": "{TEN_MEGABYTES}", "source": {{"type": "x"}}}}'),
        ("a.json", f'{{"id": "a", "source": {{"type": "x"}}, "{TEN_MEGABYTES}": 1}}'),
        ("a.yaml", TEN_MEGABYTES),
        ("a.yaml", f'"{TEN_MEGABYTES}'),
        ("a.json", f'"{TEN_MEGABYTES}'),
        ("a.jsonl", TEN_MEGABYTES),
    ],
    ids=["yaml", "json", "jsonl id", "json key", "yaml text", "yaml open", "json open", "jsonl text"],
)
def test_ten_megabytes_get_a_short_message(folder: Path, name: str, text: str) -> None:
    try:
        [message] = errors(name, text)
    except BadInput as refused:
        message = str(refused)
    assert "\n" not in message
    assert len(message) < 300


# --- properties ------------------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers(-200, 200) | st.floats() | st.text(max_size=8)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
PERCENT = st.floats(0, 100)
RIGHT = st.fixed_dictionaries(
    {"id": st.text(min_size=1, max_size=8), "source": st.fixed_dictionaries({"type": st.text(min_size=1, max_size=8)})},
    optional={"quality_metrics": st.fixed_dictionaries({}, optional={"completeness": PERCENT, "consistency": PERCENT})},
)
WRONG = st.fixed_dictionaries({"id": ANYTHING, "source": ANYTHING}, optional={"quality_metrics": ANYTHING}) | ANYTHING


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(items=st.lists(RIGHT | WRONG, min_size=1, max_size=6), suffix=st.sampled_from(["json", "jsonl", "yaml"]))
def test_every_entry_that_goes_in_comes_out_in_order(tmp_path: Path, items: list[Any], suffix: str) -> None:
    lines = [json.dumps(item, ensure_ascii=suffix != "jsonl") for item in items]
    text = "\n".join(lines) if suffix == "jsonl" else f"[{', '.join(lines)}]"
    path = tmp_path / f"a.{suffix}"
    path.write_text(text, "utf8")
    try:
        entries = read_pipelines([path])
    except BadInput:
        if suffix != "yaml":  # where JSON's \\ud800 is no character, and a key of two kinds no key
            raise
        return
    assert len(entries) == len(items)
    for entry, item in zip(entries, items, strict=True):
        if isinstance(entry, ReadPipeline):
            assert entry.spec == PipelineSpec.model_validate(item)
        else:
            assert entry.error.isprintable()
            assert entry.error.startswith(str(path))


@settings(deadline=None)
@given(text=st.text(max_size=60))
def test_no_text_whatever_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, "utf8")
    try:
        assert read_pipelines([path])
    except BadInput as refused:
        message = str(refused)
    else:
        message = ""
    assert "\n" not in message


def test_a_policy_or_suite_file_has_the_same_errors(folder: Path) -> None:
    with pytest.raises(BadInput, match=rf"^a\.yaml:2: unknown key 'name'; allowed: {ALLOWED}$"):
        load_yaml_model(written("a.yaml", "id: a\nname: b\nsource: {type: x}\n"), PipelineFacts)


# --- files longer than memory ----------------------------------------------------------------------------


def test_lines_are_drawn_one_at_a_time(folder: Path) -> None:
    path = written("a.jsonl", '{"id": "a", "source": {"type": "x"}}\n')
    files = PipelineFiles([path])
    drawn = iter(files)
    next(drawn)
    with path.open("a") as file:  # what is not drawn yet has not been read yet
        file.write('{"id": "late", "source": {"type": "x"}}\n')
    assert [entry.spec.id for entry in drawn if isinstance(entry, ReadPipeline)] == ["late"]


def test_entries_are_counted_before_they_are_drawn_and_can_be_drawn_again(folder: Path) -> None:
    one = '{"id": "a", "source": {"type": "x"}}'
    files = PipelineFiles([written("a.jsonl", f"{one}\n\n  \nNaN\n{one}"), written("b.json", one)])
    assert files.count == len(list(files)) == len(list(files)) == 4
    assert [type(entry) for entry in files] == [ReadPipeline, *[InvalidPipeline] * 3]  # ids differ over all files


def test_a_line_that_is_too_long_or_not_utf8_is_a_row_and_the_next_one_is_read(folder: Path) -> None:
    one = b'{"id": "a", "source": {"type": "x"}}\n'
    long, odd, right = read("a.jsonl", b"x" * (LONGEST_LINE + 10) + b"\n" + b'{"id": "caf\xe9"}\n' + one)
    assert isinstance(long, InvalidPipeline)
    assert isinstance(odd, InvalidPipeline)
    assert long.error == f"a.jsonl:1: is longer than {LONGEST_LINE} bytes"
    assert odd.error == "a.jsonl:2: is not UTF-8 text (byte 11 of the line)"
    assert isinstance(right, ReadPipeline)


def test_a_byte_order_mark_is_no_part_of_the_first_line(folder: Path) -> None:
    [entry] = read("a.jsonl", b'\xef\xbb\xbf{"id": "a", "source": {"type": "x"}}')
    assert isinstance(entry, ReadPipeline)


def test_a_pipe_is_read_once_and_has_no_count(folder: Path) -> None:
    os.mkfifo("a.jsonl")
    writer = threading.Thread(target=lambda: Path("a.jsonl").write_text('{"id": "a", "source": {"type": "x"}}\n'))
    writer.start()
    files = PipelineFiles([Path("a.jsonl")])
    assert files.count is None
    assert len(list(files)) == 1
    writer.join()


def test_a_file_that_is_named_twice_is_refused(folder: Path) -> None:
    path = written("a.yaml", "id: a\nsource: {type: x}\n")
    with pytest.raises(BadInput, match=r"^a\.yaml: is named twice$"):
        PipelineFiles([path, path])


def test_a_file_name_that_no_row_could_hold_is_refused(folder: Path) -> None:
    with pytest.raises(BadInput, match=r"^b'\\xff\.yaml': the file's name is not UTF-8; rename it$"):
        PipelineFiles([Path(os.fsdecode(b"\xff.yaml"))])


@pytest.mark.parametrize("value", ["!!int ''", "!!float ''", "!!bool x", "!!timestamp x", "!!int {}"])
def test_a_tag_that_does_not_fit_its_value_is_one_line(folder: Path, value: str) -> None:
    with pytest.raises(BadInput, match=r"^a\.yaml:?\d*: is not YAML: ") as refused:
        read("a.yaml", f"id: a\nsource: {{type: {value}}}\n")
    assert "\n" not in str(refused.value)


# --- a pipeline's own policy -----------------------------------------------------------------------------

DEEP: dict[str, Any] = {"a": {"a": {"a": {"a": {"a": 1}}}}}


@pytest.mark.parametrize("policy", [5, [], {"a": [1]}, {"a": "\ud800"}, {"a": "x" * 300}, DEEP])
def test_a_policy_that_no_row_could_hold_is_refused_on_reading(folder: Path, policy: object) -> None:
    text = json.dumps({"id": "a", "source": {"type": "x"}, "policy": policy})
    [told] = errors("a.jsonl", text)
    assert told.startswith("a.jsonl:1: policy: found ")
    assert told.endswith("allowed: a preset's name, or changes such as {priority.cpu.high: 75}")


@pytest.mark.parametrize("policy", ["!!binary /w==", "&p {priority: *p}"])
def test_a_policy_that_only_yaml_can_write_is_refused_on_reading(folder: Path, policy: str) -> None:
    [told] = errors("a.yaml", f"id: a\nsource: {{type: x}}\npolicy: {policy}\n")
    assert told.startswith("a.yaml:3: policy: found ")


@pytest.mark.parametrize("policy", ["adaptive", {"priority.cpu.high": 60}, {"priority": {"cpu": {"high": 60.5}}}])
def test_a_presets_name_or_plain_changes_are_taken(folder: Path, policy: object) -> None:
    [entry] = read("a.jsonl", json.dumps({"id": "a", "source": {"type": "x"}, "policy": policy}))
    assert isinstance(entry, ReadPipeline)
    assert entry.spec.policy == policy
