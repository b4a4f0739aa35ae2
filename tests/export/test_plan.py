"""The plan of ways of tuning counts what they would train and compute, and says why not."""

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel, XLMConfig, XLMForSequenceClassification

from edgefuse.bundling.plan import Plan, WayPlan, plan, plan_ways
from edgefuse.cli.plan import _show as show
from edgefuse.layers.chains.contraction import rebuilding
from edgefuse.layers.chains.decomposition import decompose
from edgefuse.layers.chains.dimensions import choose_dimensions
from edgefuse.mlps.matrices import find_matrices, place_chains, read_matrix
from edgefuse.tuning.way import Way
from edgefuse.tuning.ways import WAYS
from edgefuse.tuning.ways.full import Full
from edgefuse.tuning.ways.head import Head
from edgefuse.tuning.ways.last import Last
from edgefuse.tuning.ways.mpo import Mpo
from edgefuse_devices.catalog import load_device
from edgefuse_devices.errors import InputError
from edgefuse_export.losses.text_classification import Classifier, cross_entropy
from edgefuse_export.tasks.text_classification import WantedTextClassification
from edgefuse_runtime.training.memory_plan import LIBRARIES, Needs
from tests.tuned_pico import LABELS, TASK, classifier, exported, pico

HEADS = 2
SHAPE = {"batch_size": 4, "sequence_length": 16}
BOARD = load_device("rpi5")


@cache
def planned(kind: str) -> dict[str, WayPlan]:
    return rows_of(classifier(pico(kind)))


def rows_of(model: PreTrainedModel, *ways: type[Way]) -> dict[str, WayPlan]:
    rows = plan_ways(model, TASK, ways=[way() for way in ways] or None, **SHAPE)
    return {row.way: row for row in rows}


@pytest.fixture
def planned_before(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let `plan` take the rows of a kind that were planned already."""

    def take(kind: str) -> None:
        rows = list(planned(kind).values())
        monkeypatch.setattr("edgefuse.bundling.plan.plan_ways", lambda *_, **__: rows)

    return take


@pytest.mark.parametrize(
    ("kind", "tune"),
    [
        *(("bert", tune) for tune in ("full", "last-1", "head", "lora", "adapter", "prefix")),
        ("llama", "full"),
    ],
)
def test_what_is_planned_is_what_is_exported(kind: str, tune: str) -> None:
    row, bundle = planned(kind)[tune], exported(kind, tune)
    trained = bundle.manifest.tuning.trained_parameters
    assert row.trained_parameters == trained
    assert row.gradient_bytes == 4 * trained
    assert row.optimizer_bytes == 8 * trained
    memory = bundle.manifest.predicted_memory
    assert row.weight_bytes == memory.parameters + memory.frozen
    if tune != "prefix":  # shapes behind its joined keys are not inferred
        # The graph sums the gradients of biases and norms by products too.
        assert row.flops <= _flops(bundle.path / "train.onnx") <= 1.06 * row.flops


def _flops(file: Path) -> int:
    """Of the matrix products of a training graph, at `SHAPE`."""
    model = onnx.load(file)
    rows, tokens = SHAPE.values()
    inputs = {"input_ids": (rows, tokens), "attention_mask": (rows, tokens), "labels": (rows,)}
    for value in model.graph.input:
        for axis, dimension in enumerate(value.type.tensor_type.shape.dim):
            if dimension.dim_param:
                dimension.dim_value = inputs[value.name][axis] if value.name in inputs else 48
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True, strict_mode=True).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        sizes = value.type.tensor_type.shape.dim
        shapes[value.name] = [size.dim_value or rows * HEADS for size in sizes]  # of a reshape
    total = 0
    for node in graph.node:
        if node.op_type in ("MatMul", "Gemm"):
            transposed = any(a.name == "transA" and a.i for a in node.attribute)
            summed = shapes[node.input[0]][0 if transposed else -1]
            total += 2 * math.prod(shapes[node.output[0]]) * summed
    return total


def test_chains_of_embeddings_count_as_the_board_computes_them() -> None:
    model = classifier(pico("bert"))
    (table,) = find_matrices(model, ["embeddings"])
    dimensions = choose_dimensions(table.rows, table.columns, pads=True)
    mpo = decompose(read_matrix(model, table), dimensions)
    place_chains(model, [(table.name, mpo.tensors)])
    rows, plain = rows_of(model, Mpo, Head), planned("bert")
    assert rows["mpo"].possible
    assert rows["head"].flops == plain["head"].flops + 2 * rebuilding(dimensions, mpo.bonds)


@pytest.mark.parametrize("kind", ["bert", "fused-bert", "llama", "albert", "mixtral"])
def test_a_graph_computes_no_more_than_torch_and_planning_changes_nothing(kind: str) -> None:
    model = classifier(pico(kind))
    before = {name: p.clone() for name, p in model.named_parameters()}
    rows = rows_of(model, Full, Head, Last)

    inputs = torch.ones((4, 16), dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        loss, _ = Classifier(model, cross_entropy)(
            inputs, inputs, torch.zeros(4, dtype=torch.int64)
        )
        loss.backward()
    reads_one_token = kind not in ("llama", "mixtral")  # those look for the last one
    assert (rows["full"].flops < counter.get_total_flops()) == reads_one_token
    assert rows["full"].flops <= counter.get_total_flops()
    assert rows["head"].flops < rows["last-1"].flops <= rows["full"].flops
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad
        assert torch.equal(parameter, before[name])


def test_a_way_that_the_model_cannot_take_says_why() -> None:
    rows = planned("llama")
    assert len(rows) == len(WAYS)
    assert not rows["bitfit"].possible
    assert "no biases" in rows["bitfit"].reason
    assert rows["bitfit"].flops == 0
    model = classifier(pico("mixtral"))
    model.set_experts_implementation("eager")  # what it computes depends on the routing
    assert "cannot be traced" in rows_of(model, Full)["full"].reason


def test_a_model_that_cannot_be_counted_says_so() -> None:
    config = XLMConfig(vocab_size=50, emb_dim=16, n_layers=1, n_heads=2)
    model = XLMForSequenceClassification(config)
    rows = rows_of(model, Full, Last)
    assert "cannot be counted without computing it" in rows["full"].reason
    assert "attentions in one list" in rows["last-1"].reason


def test_sizes_that_the_model_does_not_take_are_refused() -> None:
    with pytest.raises(InputError, match="65 is outside 2 to 64"):
        plan(str(pico("bert")), task=WantedTextClassification(), device=BOARD, sequence_length=65)


def test_what_training_holds_is_predicted_as_the_exported_bundle_has_it() -> None:
    manifest = exported("bert", "lora").manifest
    shapes = [parameter.shape for parameter in manifest.parameters]
    needs = Needs(manifest.engine, manifest.optimizer, manifest.footprint, shapes)
    found = plan(
        str(pico("bert")),
        task=WantedTextClassification(labels=LABELS),
        device=BOARD,
        tune=["head", "lora"],
        batch_size=4,
        sequence_length=16,
    )
    head, lora = found.ways
    assert (head.way, lora.way) == ("head", "lora")
    assert lora.predicted_bytes == LIBRARIES + needs.least(4, 16, in_parts=False)
    assert LIBRARIES < head.predicted_bytes < lora.predicted_bytes


def test_a_way_that_is_none_is_refused_before_the_model_is_read() -> None:
    with pytest.raises(InputError, match="no way of tuning 'lorra'"):
        plan("no-model", task=WantedTextClassification(), device=BOARD, tune=["lorra"])


def test_what_does_not_fit_the_board_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    ways = [
        WayPlan(way=way, summary=way, predicted_bytes=size, kept_layers=layers)
        for way, size, layers in (("full", 9 << 20, 0), ("lora", 8 << 20, 3), ("head", 1 << 20, 0))
    ]
    sizes = {"parameters": 1, "batch_size": 1, "sequence_length": 16, "available_bytes": 5 << 20}
    show(Plan(model="model", device="rpi5", ways=ways, **sizes), "a board")
    said = " ".join(capsys.readouterr().out.split())
    assert "Too large for the board: full, lora. Fewer rows (--batch-size)" in said
    assert "Layers whose insides are kept in it, for speed: 3 for lora." in said
    assert "180.0%" in said


def test_the_command_prints_a_table_or_one_object(
    run: Callable[..., SimpleNamespace], planned_before: Callable[[str], None]
) -> None:
    command = ("plan", pico("llama"), "--device", "rpi5")
    some = ("--tune", "head", "--tune", "mpo", "--tune", "bitfit")
    found = json.loads(run(*command, *some, "--json").out)
    planned_before("llama")
    table = run(*command).out
    assert "Raspberry Pi 5: 16 rows of 64 tokens" in table
    assert "bitfit: LlamaForSequenceClassification has no biases" in table
    assert "of the 4,096 MiB that training may take" in table
    assert "Too large" not in table
    assert all(row["predicted_bytes"] > LIBRARIES for row in found["ways"] if row["possible"])
    assert "engine: onnxruntime-layers for head, unless" in table
    in_layers = [row["way"] for row in found["ways"] if row["engine"] == "onnxruntime-layers"]
    assert in_layers == ["head"]
    assert found["device"] == "rpi5"
    assert [row["way"] for row in found["ways"] if not row["possible"]] == ["mpo", "bitfit"]
    assert all(row["flops"] > 0 for row in found["ways"] if row["possible"])
