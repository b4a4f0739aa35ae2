"""Experts that lie in one stack: unstacked, as chains, and with them on the board."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import edgefuse
from edgefuse.bundling.export import export
from edgefuse.bundling.fused import fused_mlps
from edgefuse.compression.chains.limit import Limit
from edgefuse.compression.compress import compress
from edgefuse.mlps.mlp import find_mlps
from edgefuse.mlps.unstack import unstack
from edgefuse.squeezing.record import SqueezeSettings
from edgefuse.squeezing.squeeze import squeeze
from edgefuse.tuning.targets import linear_layers
from edgefuse.tuning.ways.lora import Lora
from edgefuse.tuning.ways.mpo import Mpo
from edgefuse_devices.catalog import load_device
from edgefuse_devices.errors import InputError, ModelError, RunError
from edgefuse_export.tasks.text_classification import WantedTextClassification
from edgefuse_export.trace import example
from edgefuse_runtime.bundle.bundle import Bundle
from edgefuse_runtime.converting.convert import convert
from edgefuse_runtime.graph.masks import RandomMask
from tests.pico_models import EXPERTS, LAYERS
from tests.tuned_pico import (
    CONTEXT,
    LABELS,
    TASK,
    VOCABULARY,
    logits_in_torch,
    logits_on_the_board,
    pico,
    trained,
)

LOSSLESS = Limit(max_error=0)


def hidden_states(model: torch.nn.Module) -> torch.Tensor:
    ids, mask, _ = example(TASK, (4, 9), vocabulary=VOCABULARY).values()
    with torch.no_grad():
        states: torch.Tensor = model(input_ids=ids, attention_mask=mask)[0]
    return states


@pytest.mark.parametrize("kind", ["mixtral", "fused-mixtral", "qwen2_moe"])
def test_experts_compute_the_same_by_themselves(kind: str) -> None:
    model = edgefuse.from_pretrained(pico(kind))
    before = hidden_states(model)
    mlps, blocks = find_mlps(model), len(edgefuse.multiplicities(model))
    unstack(model)
    torch.testing.assert_close(hidden_states(model), before, rtol=0, atol=1e-5)
    found = find_mlps(model)
    assert [(m.layer, m.expert, m.width) for m in found] == [
        (m.layer, m.expert, m.width) for m in mlps
    ]
    assert all(mlp.stack is None for mlp in found)
    assert len(fused_mlps(model)) == EXPERTS * blocks


@pytest.mark.parametrize("kind", ["mixtral", "fused-mixtral"])
def test_a_stack_becomes_chains_and_comes_back_from_the_file(kind: str, tmp_path: Path) -> None:
    source = str(pico(kind))
    record = compress(source, tmp_path / "chains", method="mpo", matrices=["mlp"], max_error=0)
    assert len(record.matrices) == 2 * LAYERS * EXPERTS
    model = edgefuse.from_pretrained(tmp_path / "chains")
    assert model.num_parameters() == record.parameters_after
    expected = hidden_states(edgefuse.from_pretrained(source))
    torch.testing.assert_close(hidden_states(model), expected, rtol=0, atol=1e-5)


def test_p_of_a_stack_comes_back_from_the_file_beside_chains(tmp_path: Path) -> None:
    source = str(pico("fused-mixtral"))
    compress(source, tmp_path / "chains", method="mpo", matrices=["attention"], max_error=0)
    model, fused = (edgefuse.from_pretrained(d) for d in (tmp_path / "chains", source))
    ours, theirs = edgefuse.multiplicities(model), edgefuse.multiplicities(fused)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(p, theirs[name]) for name, p in ours.items())
    torch.testing.assert_close(hidden_states(model), hidden_states(fused), rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fused Mixtral whose experts have one central tensor a layer and matrix."""
    output = tmp_path_factory.mktemp("shared") / "chains"
    record = compress(
        str(pico("fused-shallow-mixtral")),
        output,
        method="mpo",
        matrices=["mlp"],
        max_error=0,
        share_central=True,
    )
    followers = [matrix for matrix in record.matrices if matrix.shares_central_of]
    assert len(followers) == 2 * (EXPERTS - 1)
    assert record.parameters_after < record.parameters_before
    return output


def to_the_board(model: Path, output: Path, way: Mpo) -> Bundle:
    board = load_device("rpi5")
    task = WantedTextClassification(labels=LABELS)
    return export(str(model), output, device=board, task=task, tune=way)


def test_a_shared_central_tensor_stays_as_it_was(shared: Path, tmp_path: Path) -> None:
    bundle = to_the_board(shared, tmp_path / "bundle", Mpo())
    assert bundle.manifest.gradient_mask is None
    frozen = {name for name in bundle.frozen if name.endswith(".central")}
    assert len(frozen) == 2
    assert not any(name.endswith(".central") for name in bundle.trainable())


def test_a_shared_central_tensor_trains_by_random_parts_of_its_gradient(
    shared: Path, tmp_path: Path
) -> None:
    bundle = to_the_board(shared, tmp_path / "bundle", Mpo(central_keep=0.3))
    central = {name for name in bundle.trainable() if name.endswith(".central")}
    mask = bundle.manifest.gradient_mask
    assert isinstance(mask, RandomMask)
    assert mask.keep == pytest.approx(0.3)
    assert {*mask.parameters} == central
    assert len(central) == 2
    one = trained(bundle, 1)
    for name in central:
        moved = np.abs(one[name] - bundle.trainable()[name]) > 1e-3  # weight decay moves all, less
        assert 0.1 < moved.mean() < 0.6, name  # 0.3 of some dozens

    after = trained(bundle)
    model = edgefuse.from_pretrained(
        shared, transformers.AutoModelForSequenceClassification, num_labels=3
    )
    model.load_state_dict({n: torch.from_numpy(t.copy()) for n, t in after.items()}, strict=False)
    np.testing.assert_allclose(
        logits_on_the_board(bundle, after), logits_in_torch(model), atol=1e-4
    )
    convert(bundle, after, tmp_path / "onnx", to="onnx")
    with pytest.raises(RunError, match="experts in one stack, and this model's are apart"):
        convert(bundle, after, tmp_path / "plain", to="transformers")


def test_shared_central_tensors_are_not_squeezed(shared: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "warm", "label": "up"}\n{"text": "cold", "label": "down"}\n')
    with pytest.raises(ModelError, match=r"share central tensors.*without --share-central"):
        squeeze(
            str(shared),
            tmp_path / "out",
            task=WantedTextClassification(),
            train_file=rows,
            valid_file=rows,
            settings=SqueezeSettings(),
        )


@pytest.mark.parametrize("keep", [-0.1, 1.5])
def test_a_part_that_is_none_is_refused(keep: float, shared: Path) -> None:
    with pytest.raises(InputError, match=r"--mpo-central-keep .* is outside 0 to 1"):
        Mpo(central_keep=keep).prepare(edgefuse.from_pretrained(shared), CONTEXT)


def test_lora_finds_nothing_where_all_are_chains(tmp_path: Path) -> None:
    compress(
        str(pico("qwen2_moe")),
        tmp_path / "chains",
        method="mpo",
        matrices=["mlp", "attention"],
        max_error=0,
    )
    auto = transformers.AutoModelForSequenceClassification
    model = edgefuse.from_pretrained(tmp_path / "chains", auto, num_labels=3)
    with pytest.raises(ModelError, match="no linear layers under its head"):
        Lora().prepare(model, CONTEXT)


def test_a_router_that_chooses_is_no_linear_layer() -> None:
    config = transformers.PhimoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=EXPERTS,
    )
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    routers = [n for n, module in model.named_modules() if "Router" in type(module).__name__]
    assert routers
    assert not {*routers} & linear_layers(model).keys()
