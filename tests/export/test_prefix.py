"""Prefixes go from peft to the board and back, and what cannot take them is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import transformers
from peft import PeftModel

from edgefuse.bundling.export import export
from edgefuse.tuning.ways.prefix import Prefix
from edgefuse_devices.errors import InputError, ModelError, RunError
from edgefuse_runtime.converting.convert import convert
from tests.tuned_pico import (
    CONTEXT,
    OPTIONS,
    classifier,
    exported,
    logits_in_torch,
    logits_on_the_board,
    pico,
    trained,
)

# peft 0.21 asks transformers 5.23 for it
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.mark.parametrize(
    ("kind", "projection"),
    [
        ("bert", 0),
        ("bert", 6),
        ("fused-bert", 0),
        ("llama", 0),
        ("shallow-falcon", 0),
        ("shallow-mpt", 0),
    ],
)
def test_peft_loads_prefixes_onto_the_plain_model_with_the_same_logits(
    kind: str, projection: int, tmp_path: Path
) -> None:
    bundle = exported(kind, "prefix", prefix_length=4, prefix_projection=projection)
    values = trained(bundle)
    convert(bundle, values, tmp_path / "adapter", to="peft")

    loaded = PeftModel.from_pretrained(classifier(pico(kind)), str(tmp_path / "adapter"))

    expected = logits_on_the_board(bundle, values)
    np.testing.assert_allclose(logits_in_torch(loaded), expected, atol=1e-5)
    assert np.abs(expected - logits_on_the_board(bundle, bundle.trainable())).max() > 0.1
    with pytest.raises(RunError, match=r"no prefixes.*Convert it with --to onnx or --to peft$"):
        convert(bundle, values, tmp_path / "plain", to="transformers")


def test_export_goes_on_with_prefixes_that_a_perceptron_made(tmp_path: Path) -> None:
    bundle = exported("bert", "prefix", prefix_length=4, prefix_projection=6)
    values = trained(bundle)
    convert(bundle, values, tmp_path / "adapter", to="peft")
    (tmp_path / "bert").symlink_to(pico("bert"))

    further = export(str(tmp_path / "adapter"), tmp_path / "further", tune="prefix", **OPTIONS)

    start = further.trainable()
    assert start["bert.prefix.weight"].shape == (4, 3 * 2 * 16)
    np.testing.assert_allclose(
        logits_on_the_board(further, start), logits_on_the_board(bundle, values), atol=1e-5
    )
    with pytest.raises(ModelError, match=r"PREFIX_TUNING, which no weights.*--tune prefix"):
        export(str(tmp_path / "adapter"), tmp_path / "merged", tune="full", **OPTIONS)
    with pytest.raises(InputError, match=r"says its own --prefix-… options"):
        export(str(tmp_path / "adapter"), tmp_path / "more", tune=Prefix(length=5), **OPTIONS)


def test_prefixes_take_positions_from_the_text(tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"64 is outside 2 to 60, which the model takes, with 4 positions of a prefix",
    ):
        export(
            str(pico("bert")),
            tmp_path / "bundle",
            tune=Prefix(length=4),
            sequence_length=64,
            **OPTIONS,
        )


@pytest.mark.parametrize("architecture", ["albert", "distilbert", "modernbert"])
def test_attention_that_takes_nothing_from_outside_is_refused(architecture: str) -> None:
    with pytest.raises(ModelError, match=r"takes no keys and values.*Choose another way"):
        Prefix().prepare(classifier(pico(architecture)), CONTEXT)


def test_keys_and_values_of_different_sizes_are_refused() -> None:
    latent = transformers.DeepseekV3Config(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        first_k_dense_replace=1,
        kv_lora_rank=16,
        vocab_size=50,
    )
    with pytest.raises(ModelError, match=r"are 1 × 16 and 1 × 64 numbers .*Choose another way"):
        Prefix().prepare(transformers.DeepseekV3ForSequenceClassification(latent), CONTEXT)


def test_attention_with_a_cache_of_its_own_is_refused() -> None:
    model = classifier(pico("minimax"))
    with pytest.raises(
        ModelError, match=r"MiniMaxModel does not run with keys.*Choose another way"
    ):
        Prefix().prepare(model, CONTEXT)


def test_an_adapter_for_other_attention_is_refused(tmp_path: Path) -> None:
    bundle = exported("bert", "prefix", prefix_length=4, prefix_projection=0)
    convert(bundle, bundle.trainable(), tmp_path / "adapter", to="peft")
    config = tmp_path / "adapter" / "adapter_config.json"
    settings = {**json.loads(config.read_text()), "num_attention_heads": 4}
    config.write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=r"prefixes are 3 × 4 × 4 .* attention keeps 3 × 2 × 8"):
        Prefix().prepare(
            classifier(pico("bert")), replace(CONTEXT, peft_adapter=tmp_path / "adapter")
        )


def test_a_prefix_of_no_length_is_refused() -> None:
    with pytest.raises(InputError, match="--prefix-length 0 leaves nothing to train"):
        Prefix(length=0).prepare(classifier(pico("bert")), CONTEXT)


@pytest.mark.parametrize("projection", [0, 6])
def test_plain_transformers_cannot_say_prefixes(projection: int, tmp_path: Path) -> None:
    bundle = exported("bert", "prefix", prefix_length=4, prefix_projection=projection)
    values = bundle.trainable()
    convert(bundle, values, tmp_path / "onnx", to="onnx")
    with pytest.raises(RunError, match=r"no prefixes.*--to onnx"):
        convert(bundle, values, tmp_path / "plain", to="transformers")
