"""What export mends or refuses in the models that it is given."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from edgefuse.bundling.export import export
from edgefuse_devices.catalog import load_device
from edgefuse_devices.errors import InputError, ModelError, OutputError
from edgefuse_export.gradient import _innermost
from edgefuse_export.tasks.architecture import check_architecture
from edgefuse_export.tasks.text_classification import WantedTextClassification
from edgefuse_runtime.optimizers.adamw import AdamW
from edgefuse_runtime.optimizers.registry import find_optimizer
from edgefuse_runtime.tasks.text_classification import TextClassification

OPTIONS = {"device": load_device("rpi5"), "task": WantedTextClassification(labels=["cold", "warm"])}


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(
    pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    model = shutil.copytree(pico_model(), tmp_path / "model")
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.add_tokens(["unheard-of"])
    tokenizer.save(str(model / "tokenizer.json"))
    with pytest.raises(ModelError, match=r"has token ids up to \d+, and the model embeds"):
        export(str(model), tmp_path / "bundle", **OPTIONS)
    assert not (tmp_path / "bundle").exists()


def test_a_head_for_another_count_of_classes_is_refused_and_one_that_fits_is_kept(
    pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    model = str(pico_model("roberta", num_labels=3))
    with pytest.raises(ModelError, match=r"a head for 3 classes .*and 2 are given.*encoder alone"):
        export(model, tmp_path / "bundle", **OPTIONS)
    assert not (tmp_path / "bundle").exists()

    three = OPTIONS | {"task": WantedTextClassification(labels=["cold", "warm", "hot"])}
    bundle = export(model, tmp_path / "bundle", **three)
    saved = load_file(f"{model}/model.safetensors")
    name = "classifier.out_proj.weight"
    assert np.array_equal(bundle.trainable()[name], saved[name])


@pytest.mark.parametrize(
    ("experts", "match"),
    [
        ("grouped_mm", r"cannot be exported: .*grouped_mm.*Use another model"),
        ("eager", r"MixtralForSequenceClassification cannot be traced: \w"),
    ],
)
def test_a_model_that_no_graph_can_hold_is_refused_by_what_it_lacks(
    experts: str,
    match: str,
    pico_model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgefuse.bundling.load.every_expert_by_name", lambda: experts)
    with pytest.raises(ModelError, match=match):
        export(str(pico_model("mixtral")), tmp_path / "bundle", **OPTIONS)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("t5", "t5 models have an encoder and a decoder"),
        ("olmoe", "transformers has no classifier of olmoe models"),
    ],
)
def test_a_model_that_cannot_classify_in_a_graph_is_refused(
    kind: str, reason: str, pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=reason):
        export(str(pico_model(kind)), tmp_path / "bundle", **OPTIONS)


def test_a_model_that_reads_pictures_too_is_refused() -> None:
    with pytest.raises(ModelError, match="gemma3 models read more than text"):
        check_architecture(transformers.Gemma3Config(), "gemma", TextClassification)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"optimizer": AdamW(weight_decay=math.inf)}, "--weight-decay is inf"),
        ({"optimizer": AdamW(max_gradient_norm=math.nan)}, "--max-gradient-norm is nan.*finite"),
        ({"optimizer": AdamW(weight_decay=-0.1)}, "optimizer adamw does not hold.*weight_decay"),
        ({"optimizer": AdamW(beta2=1.0)}, "optimizer adamw does not hold.*beta2"),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"seed": 1 << 70}, "--seed is 1180591620717411303424"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_numbers_that_no_bundle_can_hold_are_refused(
    options: dict[str, Any], match: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=match):
        export("no-model", tmp_path / "bundle", **OPTIONS, **options)


def test_engines_and_optimizers_that_there_are_not_are_refused_with_near_ones(
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError, match=r"no engine 'onnx-runtime'.*Did you mean onnxruntime"):
        export("no-model", tmp_path / "bundle", engine="onnx-runtime", **OPTIONS)
    with pytest.raises(InputError, match=r"no optimizer 'adam'.*Did you mean adamw"):
        find_optimizer("adam")
    with pytest.raises(InputError, match="--momentum is no option of --optimizer adamw"):
        find_optimizer("adamw", {"momentum": 0.9})


def test_an_output_that_is_there_is_refused_before_the_model_is_read(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(OutputError, match="is not empty"):
        export("no-model", tmp_path, **OPTIONS)


def test_what_cannot_be_exported_is_named_where_the_error_says_nothing() -> None:
    assert _innermost(AssertionError()) == "AssertionError"
    error = RuntimeError("outer")
    error.__cause__ = ValueError("inner.\nmore")
    assert _innermost(error) == "inner"


def test_the_bundles_tokenizer_cuts_but_never_pads_and_its_config_names_the_classifier(
    pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    model = shutil.copytree(pico_model(), tmp_path / "model")
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.enable_padding(length=128)
    tokenizer.save(str(model / "tokenizer.json"))
    bundle = export(str(model), tmp_path / "bundle", sequence_length=8, **OPTIONS)

    saved = Tokenizer.from_file(str(bundle.path / "tokenizer.json"))
    assert len(saved.encode("warm").ids) == 3
    assert len(saved.encode("warm " * 20).ids) == 8
    config = json.loads((bundle.path / "model/config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
