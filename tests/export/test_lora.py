"""LoRA goes from peft to the board and back, on plain models and on fused ones."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from edgefuse import from_pretrained, multiplicities
from edgefuse.bundling.export import export
from edgefuse.tuning.targets import linear_layers
from edgefuse.tuning.ways import find_way
from edgefuse.tuning.ways.lora import Lora
from edgefuse_devices.catalog import load_device
from edgefuse_devices.errors import InputError, ModelError, RunError
from edgefuse_export.tasks.text_classification import WantedTextClassification
from edgefuse_runtime.converting.convert import convert
from tests.tuned_pico import (
    CONTEXT,
    LABELS,
    classifier,
    exported,
    logits_in_torch,
    logits_on_the_board,
    pico,
    trained,
)

KINDS = ("bert", "fused-bert", "fused-shallow-llama", "fused-shallow-gpt2")
# peft 0.21 asks transformers 5.23 for it
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Adapter 'default'"),  # lora_bias
]
BOARD = load_device("rpi5")


@pytest.mark.parametrize("kind", KINDS)
def test_peft_loads_the_adapter_onto_the_plain_model_with_the_same_logits(
    kind: str, tmp_path: Path
) -> None:
    bundle = exported(kind, "lora", lora_rank=2)
    values = trained(bundle)
    convert(bundle, values, tmp_path / "adapter", to="peft")

    loaded = PeftModel.from_pretrained(classifier(pico(kind)), str(tmp_path / "adapter"))

    expected = logits_on_the_board(bundle, values)
    np.testing.assert_allclose(logits_in_torch(loaded), expected, atol=1e-5)
    assert np.abs(expected - logits_on_the_board(bundle, bundle.trainable())).max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_and_onnx_get_merged_weights(kind: str, tmp_path: Path) -> None:
    bundle = exported(kind, "lora", lora_rank=2)
    values = trained(bundle)
    convert(bundle, values, tmp_path / "plain", to="transformers")
    convert(bundle, values, tmp_path / "onnx", to="onnx")

    expected = logits_on_the_board(bundle, values)
    np.testing.assert_allclose(logits_in_torch(classifier(tmp_path / "plain")), expected, atol=1e-5)
    for graph in (bundle.path / "inference.onnx", tmp_path / "onnx" / "model.onnx"):
        assert "lora" not in str(onnx.load(graph, load_external_data=False).graph)


def test_export_goes_on_with_an_adapter_or_begins_from_its_merged_weights(tmp_path: Path) -> None:
    bundle = exported("fused-shallow-bert", "lora", lora_rank=2)
    values = trained(bundle)
    adapter = tmp_path / "adapter"
    convert(bundle, values, adapter, to="peft")
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "fused-shallow-bert"
    (tmp_path / "fused-shallow-bert").symlink_to(pico("fused-shallow-bert"))
    options = {"device": BOARD, "task": WantedTextClassification(labels=LABELS)}

    further = export(str(adapter), tmp_path / "further", tune="lora", **options)
    merged = export(str(adapter), tmp_path / "merged", tune="head", **options)

    assert further.manifest.model.source == "adapter"
    start = further.trainable()
    assert start.keys() == values.keys()
    for name, value in values.items():
        np.testing.assert_allclose(start[name], value, rtol=1e-6)
    expected = logits_on_the_board(bundle, values)
    for again in (further, merged):
        np.testing.assert_allclose(
            logits_on_the_board(again, again.trainable()), expected, atol=1e-5
        )
    for rank in (4, 8):  # the latter is what there is without an option
        with pytest.raises(InputError, match=r"says its own --lora-… options"):
            export(str(adapter), tmp_path / "more", tune=Lora(rank=rank), **options)


def test_an_adapter_without_its_model_is_refused(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    bundle = exported("bert", "lora", lora_rank=2)
    convert(bundle, bundle.trainable(), adapter, to="peft")
    file = adapter / "adapter_config.json"
    for name in ("gone/away", None):
        config = json.loads(file.read_text()) | {"base_model_name_or_path": name}
        file.write_text(json.dumps(config))
        with pytest.raises(ModelError, match=r"cannot be found.*beside the adapter"):
            export(
                str(adapter),
                tmp_path / "bundle",
                device=BOARD,
                task=WantedTextClassification(labels=LABELS),
            )


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(task_type="SEQ_CLS", target_modules=["query"], use_dora=True),
        LoraConfig(task_type="SEQ_CLS", target_modules=["word_embeddings"]),
        LoraConfig(task_type="SEQ_CLS", target_modules=["query"], lora_bias=True),
    ],
)
def test_adapters_that_are_no_plain_update_are_refused(config: LoraConfig, tmp_path: Path) -> None:
    get_peft_model(classifier(pico("bert")), config).save_pretrained(str(tmp_path))
    with pytest.raises(ModelError, match=r"two low-rank factors.*merge_and_unload"):
        Lora().prepare(classifier(pico("bert")), replace(CONTEXT, peft_adapter=tmp_path))


def test_an_adapter_that_reads_neurons_of_no_multiplicity_is_refused(tmp_path: Path) -> None:
    config = LoraConfig(task_type="SEQ_CLS", target_modules=["output.dense"])
    get_peft_model(classifier(pico("fused-bert")), config).save_pretrained(str(tmp_path))
    model = from_pretrained(pico("fused-bert"), AutoModelForSequenceClassification, num_labels=3)
    next(iter(multiplicities(model).values()))[0] = 0
    with pytest.raises(ModelError, match="leaves out"):
        Lora().prepare(model, replace(CONTEXT, peft_adapter=tmp_path))


def test_updates_of_fused_matrices_are_weighed_in_the_gradient_norm_as_the_matrices_are() -> None:
    bundle = exported("fused-bert", "lora", lora_rank=2)
    graph = onnx.load(bundle.path / "train.onnx", load_external_data=False).graph
    weighed = {i.name.removeprefix("gradient_norm.") for i in graph.initializer}
    layer = "bert.encoder.layer.0"
    assert f"{layer}.intermediate.dense.lora_B.weight" in weighed
    assert f"{layer}.output.dense.lora_A.weight" in weighed
    assert f"{layer}.output.dense.lora_B.weight" not in weighed


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"lora_rank": 17}, "17 is above 16, the rank of .*, 16 × 16.*Give a lower one"),
        ({"lora_rank": 0}, "0 leaves nothing to train.*Give 8, or less"),
        ({"lora_targets": ("querry",)}, "querry matches none.*Did you mean query?"),
        (
            {"lora_targets": ("attention.output.dens",)},
            "Did you mean attention.output.dense?",
        ),
        ({"lora_targets": ("pooler.dense",)}, "pooler.dense is of the head, which trains whole"),
        ({"lora_targets": ("pooler",)}, "pooler is of the head"),
        ({"lora_targets": ("all-linear", "querry")}, "querry matches none.*Did you mean query?"),
        ({"lora_targets": ("",)}, "--lora-targets '' matches none"),
        ({"lora_targets": ("zzzz",)}, "zzzz matches none.*There are dense, key, query, value"),
        ({"bitfit_rank": 2}, "--bitfit-rank is no option of --tune lora"),
    ],
)
def test_options_that_do_not_fit_say_what_would(options: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        find_way("lora", options).prepare(classifier(pico("bert")), CONTEXT)


def test_the_command_writes_an_adapter_and_says_how_to_load_it(
    run: Callable[..., SimpleNamespace], tmp_path: Path
) -> None:
    bundle = exported("bert", "lora", lora_rank=2)
    done = run("convert", bundle.path, tmp_path / "adapter", "--to", "peft")
    assert done.code == 0, done.err
    assert f"PeftModel.from_pretrained(model, '{tmp_path / 'adapter'}')" in done.out
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    full = run("convert", exported("bert", "full").path, tmp_path / "none", "--to", "peft")
    assert full.code == 2
    assert not (tmp_path / "none").exists()


def test_pefts_word_for_all_linear_layers_is_known() -> None:
    merges = [
        Lora(rank=2, targets=targets).prepare(classifier(pico("bert")), CONTEXT).merges
        for targets in ((), ("all-linear",), ("query", "all-linear"))
    ]
    assert merges[0] == merges[1] == merges[2]


def test_targets_choose_what_is_updated() -> None:
    model = classifier(pico("bert"))
    prepared = Lora(rank=2, alpha=3, targets=("query", "attention.output.dense")).prepare(
        model, CONTEXT
    )
    assert {merge.weight.removeprefix("bert.encoder.layer.") for merge in prepared.merges} == {
        f"{layer}.attention.{name}.weight"
        for layer in range(3)
        for name in ("self.query", "output.dense")
    }
    assert {merge.scale for merge in prepared.merges} == {1.5}


def test_a_linear_layer_with_a_forward_of_its_own_is_updated_where_it_computes_no_more() -> None:
    class Twice(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's name
            return 2 * super().forward(input)

    class Router(nn.Linear):
        def forward(self, input: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # noqa: A002
            return super().forward(input), input

    class Same(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's name
            return input @ self.weight.T + self.bias

    model = classifier(pico("bert"))
    layers = [layer.intermediate for layer in model.base_model.encoder.layer]
    for layer, kind in zip(layers, (Twice, Router, Same), strict=True):
        layer.dense = kind(16, 32)
    updated = [name for name in linear_layers(model) if "intermediate" in name]
    assert updated == ["bert.encoder.layer.2.intermediate.dense"]


def test_layers_of_falcons_own_class_are_updated_too() -> None:
    merges = Lora(rank=2).prepare(classifier(pico("fused-falcon")), CONTEXT).merges
    assert {merge.weight.removeprefix("transformer.h.") for merge in merges} == {
        f"{layer}.{name}.weight"
        for layer in range(3)
        for name in (
            "self_attention.query_key_value",
            "self_attention.dense",
            "mlp.dense_h_to_4h",
            "mlp.dense_4h_to_h",
        )
    }


def test_targets_that_peft_takes_for_experts_are_refused() -> None:
    config = transformers.HunYuanMoEV1Config(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=2,
        moe_topk=[1],
    )
    model = transformers.HunYuanMoEV1ForSequenceClassification(config)
    with pytest.raises(ModelError, match=r"takes some of the targets for .*--lora-targets"):
        Lora(rank=2).prepare(model, CONTEXT)


def test_what_trains_no_adapter_is_not_converted_to_peft(tmp_path: Path) -> None:
    bundle = exported("bert", "head")
    with pytest.raises(RunError, match="what --tune lora and prefix train, not what head does"):
        convert(bundle, bundle.trainable(), tmp_path / "adapter", to="peft")
    assert not (tmp_path / "adapter").exists()


def test_a_model_without_linear_layers_has_nothing_to_update() -> None:
    model = classifier(pico("bert"))
    model.bert.encoder.layer = torch.nn.ModuleList()
    with pytest.raises(ModelError, match="no linear layers"):
        Lora().prepare(model, CONTEXT)
