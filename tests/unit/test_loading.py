"""What `edgefuse.from_pretrained` gives, and what it says of what it cannot load."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import edgefuse
from edgefuse.bundling.export import export
from edgefuse.bundling.load import load_with_head
from edgefuse.compression.compress import compress
from edgefuse.hub.finite import check_finite
from edgefuse.hub.source import find_source
from edgefuse.hub.tokenizer import load_tokenizer
from edgefuse.mlps.matrices import KINDS
from edgefuse_devices.catalog import load_device
from edgefuse_devices.errors import InputError, ModelError
from edgefuse_export.tasks.text_classification import (
    TextClassificationExport,
    WantedTextClassification,
)
from edgefuse_runtime.tasks.text_classification import TextClassification

PicoModel = Callable[..., Path]

TWO = WantedTextClassification(labels=["a", "b"])


def changed(model: Path, folder: Path, file: str, change: dict[str, object] | bytes) -> Path:
    """A copy of a model with a file written otherwise."""
    shutil.copytree(model, folder)
    path = folder / file
    if isinstance(change, bytes):
        path.write_bytes(change)
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    return folder


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16"])
@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("bert", None),
        ("bert", "mlp-fusion"),
        ("bert", "svd"),
        ("mixtral", "published"),
        ("bert", "mpo"),
    ],
)
def test_the_type_that_is_asked_for_is_given(
    kind: str, method: str | None, dtype: torch.dtype | str, pico_model: PicoModel, tmp_path: Path
) -> None:
    source, directory = str(pico_model(kind)), tmp_path / "model"
    if method is None:
        directory = Path(source)
    elif method == "mpo":
        compress(source, directory, method="mpo", matrices=KINDS, max_error=0)
    else:
        compress(source, directory, method=method, ratio=0.5)
    model = edgefuse.from_pretrained(directory, dtype=dtype)
    assert model.dtype == model.config.dtype == torch.bfloat16
    assert {tensor.dtype for tensor in model.state_dict().values()} <= {torch.bfloat16, torch.int64}
    whole = edgefuse.from_pretrained(directory)
    assert {parameter.dtype for parameter in whole.parameters()} == {torch.float32}
    ids = torch.arange(5, 12)[None]
    with torch.no_grad():
        cast, exact = (one(ids).last_hidden_state.float() for one in (model, whole))
    assert (cast - exact).norm() / exact.norm() < 0.05


def test_weights_that_are_not_numbers_are_refused_at_once_and_by_name(
    pico_model: PicoModel, tmp_path: Path
) -> None:
    model = shutil.copytree(pico_model("bert"), tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    name = next(name for name in tensors if "query.weight" in name)
    tensors[name][0, 0] = float("nan")
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"NaN or infinite, in .*query\.weight"):
        export(
            str(model),
            tmp_path / "out",
            device=load_device("rpi5"),
            task=WantedTextClassification(labels=["a", "b"]),
        )


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": "x"},
        {"num_attention_heads": 0},
        {"id2label": ["a"]},
        {"dtype": "zzz"},
        {"architectures": ["GPT2Model"]},
    ],
)
def test_a_broken_configuration_is_the_users_to_mend(
    change: dict[str, object], pico_model: PicoModel, tmp_path: Path
) -> None:
    model = changed(pico_model("bert"), tmp_path / "model", "config.json", change)
    with pytest.raises(InputError):
        compress(str(model), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("tokenizer.json", b'{"model": {"type": "of tomorrow"}}'),
        ("tokenizer.json", b"{"),
        ("tokenizer_config.json", b"[]"),
    ],
)
def test_a_broken_tokenizer_is_the_users_to_mend(
    file: str, change: bytes, pico_model: PicoModel, tmp_path: Path
) -> None:
    model = changed(pico_model("bert"), tmp_path / "model", file, change)
    with pytest.raises(ModelError, match=r"tokenizer .* cannot be loaded"):
        load_tokenizer(find_source(str(model)))


@pytest.mark.parametrize(
    "content",
    [
        {"base_model_name_or_path": "x", "config": {"architecture": "houlsby"}},  # AdapterHub's
        {"base_model_name_or_path": "x"},
        {"base_model_name_or_path": "x", "peft_type": "OF_TOMORROW"},
    ],
)
def test_an_adapter_that_is_not_pefts_is_the_users_to_mend(
    content: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match="cannot be loaded"):
        export(
            str(tmp_path),
            tmp_path / "out",
            device=load_device("rpi5"),
            task=WantedTextClassification(labels=["a", "b"]),
        )


@pytest.mark.parametrize("dtype", ["zzz", {"": torch.bfloat16}])
def test_a_type_that_is_none_is_refused_of_a_compressed_model(
    dtype: object, pico_model: PicoModel, tmp_path: Path
) -> None:
    compress(str(pico_model("bert")), tmp_path / "fused", ratio=0.5)
    with pytest.raises(ModelError, match="There is no type"):
        edgefuse.from_pretrained(tmp_path / "fused", dtype=dtype)


def test_weights_that_stay_on_the_disk_are_not_looked_at() -> None:
    check_finite(torch.full((2,), float("nan"), device="meta"), "model", "weight")
    check_finite(torch.zeros(0), "model", "weight")
    check_finite(torch.zeros(2, dtype=torch.int64), "model", "weight")
    for wrong in (float("nan"), float("inf"), -float("inf")):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            with pytest.raises(ModelError, match="NaN or infinite, in weight"):
                check_finite(torch.tensor([1.0, wrong], dtype=dtype), "model", "weight")


def test_a_directory_has_no_revisions(pico_model: PicoModel) -> None:
    with pytest.raises(ModelError, match="revisions are of models on the hub"):
        edgefuse.from_pretrained(pico_model("bert"), revision="v2")


def test_what_edgefuse_raises_itself_stays_what_it_is(
    pico_model: PicoModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: object, **_options: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr("edgefuse.artifact.load.check_weights", broken)
    source = find_source(str(pico_model("bert")))
    with pytest.raises(KeyError):
        edgefuse.from_pretrained(source.name)
    with pytest.raises(KeyError):
        load_with_head(
            source,
            TextClassificationExport(TextClassification(labels=["a", "b"])),
            padding_id=0,
        )
