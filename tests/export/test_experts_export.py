"""Mixtures of experts, plain and fused, as graphs that train on the board."""

import copy
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from transformers import PreTrainedModel

from edgefuse.hub.silence import silence_transformers
from edgefuse.layers.experts import every_expert_by_name
from edgefuse_export.trace import example
from edgefuse_runtime.bundle.bundle import Bundle
from edgefuse_runtime.converting.convert import convert
from edgefuse_runtime.graph.merges import Fold
from tests.pico_models import EXPERTS, WIDTH
from tests.pico_models import pico_model as make_pico_model
from tests.tuned_pico import TASK, VOCABULARY, exported, random_batch, trained, training_outputs


def gpt_oss() -> PreTrainedModel:
    """Its experts have biases, gate and up in turn, and matrices stored the other way."""
    config = transformers.GptOssConfig(
        vocab_size=VOCABULARY,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=4,
        num_local_experts=EXPERTS,
        num_experts_per_tok=2,
    )
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config)
    for parameter in model.parameters():  # transformers begins with biases of zero
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe", "gpt_oss"])
def test_every_expert_gives_the_outputs_and_gradients_of_those_asked_for(kind: str) -> None:
    model = gpt_oss() if kind == "gpt_oss" else make_pico_model(kind)
    other = copy.deepcopy(model)
    model.set_experts_implementation("eager")
    other.set_experts_implementation(every_expert_by_name())
    ids, mask, _ = example(TASK, (4, 9), vocabulary=VOCABULARY).values()
    outputs = [one(input_ids=ids, attention_mask=mask)[0] for one in (model, other)]
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-5)
    direction = torch.randn(outputs[0].shape, generator=torch.Generator().manual_seed(1))
    for output in outputs:
        (output * direction).sum().backward()
    for (name, one), (_, two) in zip(
        model.named_parameters(), other.named_parameters(), strict=True
    ):
        if one.grad is None:  # nobody asked that expert
            assert two.grad is None or not two.grad.any(), name
            continue
        assert two.grad is not None, name
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "tune", "folds"),
    [("fused-shallow-mixtral", "full", 1), ("qwen2_moe", "lora", 0)],
)
def test_it_trains_and_converts_to_what_others_load(
    kind: str, tune: str, folds: int, tmp_path: Path
) -> None:
    bundle = exported(kind, tune)
    certificate = bundle.manifest.certificate
    assert certificate is not None
    assert certificate.worst_gradient_error < 1e-3
    assert len(_folds(bundle)) == folds

    after = trained(bundle)
    before = bundle.trainable()
    assert all(np.isfinite(tensor).all() for tensor in after.values())
    assert any(np.abs(after[name] - before[name]).max() > 1e-3 for name in after)
    convert(bundle, after, tmp_path / "onnx", to="onnx")
    convert(bundle, after, tmp_path / "plain", to="transformers")
    inputs = {name: random_batch(7)[name] for name in TASK.inputs}
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx/model.onnx"))
    (logits,) = session.run(["logits"], inputs)
    with silence_transformers(), torch.no_grad():
        auto = transformers.AutoModelForSequenceClassification
        plain = auto.from_pretrained(tmp_path / "plain").eval()
        said = plain(**{name: torch.from_numpy(value) for name, value in inputs.items()}).logits
    np.testing.assert_allclose(said.numpy(), logits, atol=1e-4)


def _folds(bundle: Bundle) -> list[Fold]:
    return [merge for merge in bundle.manifest.merges if isinstance(merge, Fold)]


def test_p_of_a_stack_stands_alone_in_training_and_is_folded_for_inference() -> None:
    bundle = exported("fused-shallow-mixtral", "full")
    frozen, trainable = bundle.frozen, bundle.trainable()
    for fold in _folds(bundle):
        assert frozen[fold.multiplicity].shape == (EXPERTS, 1, WIDTH // 4)
        assert (frozen[fold.multiplicity].sum(axis=(1, 2)) == WIDTH).all()
        assert fold.weight.endswith(".experts.down_proj")
        assert trainable[fold.weight].shape[fold.axis] == WIDTH // 4
        assert fold.multiplicity.encode() in (bundle.path / "train.onnx").read_bytes()
        assert fold.multiplicity.encode() not in (bundle.path / "inference.onnx").read_bytes()


def test_the_gradient_norm_weighs_each_experts_neurons() -> None:
    bundle = exported("fused-shallow-mixtral", "full")
    outputs = training_outputs(bundle)
    frozen = bundle.frozen
    total = plain = 0.0
    p = {fold.weight: frozen[fold.multiplicity][:, 0] for fold in _folds(bundle)}  # (E, k)
    for parameter in bundle.manifest.parameters:
        square = outputs[parameter.gradient].astype(np.float64) ** 2
        plain += square.sum()
        if parameter.name in p:
            square = square / p[parameter.name][:, None, :]
        elif parameter.name.endswith(".gate_up_proj"):
            n = p[parameter.name.replace("gate_up_proj", "down_proj")]
            square = square / np.concatenate([n, n], axis=1)[:, :, None]
        total += square.sum()
    assert outputs["gradient_norm"] == pytest.approx(np.sqrt(total), rel=1e-5)
    assert outputs["gradient_norm"] < 0.999 * np.sqrt(plain)
