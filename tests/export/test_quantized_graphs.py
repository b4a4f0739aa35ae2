"""Graphs that take codes and scales compute what they did with the floats."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir import tape

from edgefuse_export.base.blocks import quantize
from edgefuse_export.gradient import IR_VERSION, OPSET
from edgefuse_export.passes.products import multiply_codes
from edgefuse_export.passes.quantized_base import dequantize_first, read_quantized
from edgefuse_export.passes.row_shards import split_rows
from edgefuse_runtime.graph.base import BLOCK, Blocks, packed, tensor_or_rows
from edgefuse_runtime.session import onnxruntime, open_session, session_options

ROWS, COLUMNS, TOKENS = 100, 64, 5
FLOAT, INT64 = ir.TensorType(ir.DataType.FLOAT), ir.TensorType(ir.DataType.INT64)
RNG = np.random.default_rng(0)
W = RNG.normal(size=(ROWS, COLUMNS)).astype(np.float32)


def with_minima() -> Blocks:
    """Codes, scales and minima as a GGUF file's Q4_1 has them."""
    parts = (ROWS, COLUMNS // BLOCK)
    return Blocks(
        packed(RNG.integers(-8, 8, (ROWS, COLUMNS)).astype(np.int8)),
        RNG.uniform(0.01, 0.2, parts).astype(np.float16),
        RNG.uniform(-2, 0.5, parts).astype(np.float16),
    )


FORMS = {"int8": quantize(W, "int8"), "int4": quantize(W, "int4"), "q4_1": with_minima()}
EVERY = pytest.mark.parametrize("blocks", FORMS.values(), ids=FORMS)


def value(name: str, kind: ir.TensorType, *shape: int | str) -> ir.Value:
    return ir.Value(name=name, type=kind, shape=ir.Shape(shape))


def tied_model() -> ir.Model:
    """Rows that are looked up, x Wᵀ, and (x Wᵀ) W: an embedding, a head and its gradient."""
    ids, x = value("ids", INT64, "rows", "tokens"), value("x", FLOAT, "n", COLUMNS)
    w = value("w", FLOAT, ROWS, COLUMNS)
    recorder = tape.Tape()
    rows = recorder.op("Gather", [w, ids])
    turned = recorder.op("Transpose", [w], {"perm": [1, 0]})
    scores = recorder.op("MatMul", [x, turned])
    back = recorder.op("MatMul", [scores, recorder.op("Transpose", [turned], {"perm": [1, 0]})])
    shapes = {
        "rows": (rows, ["rows", "tokens", COLUMNS]),
        "scores": (scores, ["n", ROWS]),
        "back": (back, ["n", COLUMNS]),
    }
    for name, (output, shape) in shapes.items():
        output.name, output.type, output.shape = name, FLOAT, ir.Shape(shape)
    graph = ir.Graph(
        [ids, x, w], [rows, scores, back], nodes=recorder.nodes, opset_imports={"": OPSET}
    )
    return ir.Model(graph, ir_version=IR_VERSION)


def only(model: ir.Model, *names: str) -> ir.Model:
    """The same without some outputs, and without what only they are made of."""
    for output in [one for one in model.graph.outputs if one.name not in names]:
        model.graph.outputs.remove(output)
    ir.passes.common.RemoveUnusedNodesPass()(model)
    for unread in [one for one in model.graph.inputs if not one.uses()]:
        model.graph.inputs.remove(unread)
    return model


def read(model: ir.Model, names: Sequence[str], blocks: Blocks) -> None:
    read_quantized(
        model,
        dict.fromkeys(names, blocks.precision),
        with_minima=names if blocks.minimum is not None else [],
    )


def run(
    model: ir.Model,
    blocks: Blocks,
    folder: Path,
    *,
    initializers: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    ir.save(model, folder / "model.onnx")
    session = open_session(folder / "model.onnx", threads=1, initializers=initializers)
    rng = np.random.default_rng(1)
    feeds = {
        "ids": rng.integers(ROWS, size=(2, TOKENS)),
        "x": rng.normal(size=(3, COLUMNS)).astype(np.float32),
    }
    tensors, binding = blocks.named("w"), session.io_binding()
    for one in session.get_inputs():
        given = feeds[one.name] if one.name in feeds else tensor_or_rows(tensors, one.name)
        assert given is not None, one.name
        binding.bind_cpu_input(one.name, np.asarray(given, order="C"))
    names = [one.name for one in session.get_outputs()]
    for name in names:
        binding.bind_output(name, "cpu")
    session.run_with_iobinding(binding)
    return dict(zip(names, binding.copy_outputs_to_cpu(), strict=True))


def expected(blocks: Blocks) -> dict[str, np.ndarray]:
    rng, floats = np.random.default_rng(1), blocks.floats()
    rows = floats[rng.integers(ROWS, size=(2, TOKENS))]
    scores = rng.normal(size=(3, COLUMNS)).astype(np.float32) @ floats.T
    return {"rows": rows, "scores": scores, "back": scores @ floats}


@EVERY
@pytest.mark.parametrize("outputs", [("rows",), ("scores",), ("rows", "scores", "back")])
def test_codes_and_scales_are_read_in_the_place_of_floats(
    outputs: tuple[str, ...], blocks: Blocks, tmp_path: Path
) -> None:
    model = only(tied_model(), *outputs)
    read(model, ["w"], blocks)
    assert [one.name for one in model.graph.outputs] == [*outputs]
    found, wanted = run(model, blocks, tmp_path), expected(blocks)
    assert found.keys() == set(outputs)
    for name in outputs:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5, atol=1e-5)


@EVERY
def test_rows_that_are_looked_up_are_the_only_ones_that_become_floats(
    blocks: Blocks,
) -> None:
    model = only(tied_model(), "rows")
    read(model, ["w"], blocks)
    floats = [
        one
        for node in model.graph
        for one in node.outputs
        if one.dtype == ir.DataType.FLOAT and one.shape is not None and one.shape[0] == ROWS
    ]
    assert all(one.shape is not None and one.shape[-1] < COLUMNS for one in floats)  # scales


@EVERY
def test_a_product_multiplies_by_codes(blocks: Blocks, tmp_path: Path) -> None:
    model = tied_model()
    read(model, ["w"], blocks)
    assert multiply_codes(model) == ["w"]
    kinds = Counter(node.op_type for node in model.graph)
    assert kinds["MatMulNBits"] == 1  # the gradient's product reads the matrix as it is
    found = run(model, blocks, tmp_path, initializers=blocks.factors("w"))
    wanted = expected(blocks)
    np.testing.assert_allclose(found["rows"], wanted["rows"], rtol=1e-5, atol=1e-5)
    for name in ("scores", "back"):  # x is rounded to 8 bits
        error = np.linalg.norm(found[name] - wanted[name]) / np.linalg.norm(wanted[name])
        assert error < 0.02
    assert np.abs(found["scores"] - wanted["scores"]).max() > 0


@EVERY
def test_what_only_products_read_is_no_input_any_more(blocks: Blocks) -> None:
    model = only(tied_model(), "scores")
    read(model, ["w"], blocks)
    assert multiply_codes(model) == ["w"]
    assert [one.name for one in model.graph.inputs] == ["x"]
    assert {*model.graph.initializers} >= blocks.factors("w").keys()


@EVERY
@pytest.mark.parametrize("most", [16, 64, 99])
def test_a_vocabulary_is_scored_in_parts_that_no_two_products_share(
    most: int, blocks: Blocks, tmp_path: Path
) -> None:
    model = only(tied_model(), "scores", "back")
    names = split_rows(model.graph, "w", most=most)
    assert len(names) == len(set(names)) > 2
    assert "w" not in {one.name for one in model.graph.inputs}
    for name in names:
        shape = next(one.shape for one in model.graph.inputs if one.name == name)
        assert shape is not None
        assert shape.numpy()[0] <= most
    read(model, names, blocks)
    found, wanted = run(model, blocks, tmp_path), expected(blocks)
    for name in ("scores", "back"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=1e-4)


def test_what_is_small_or_read_otherwise_stays_whole() -> None:
    assert split_rows(only(tied_model(), "scores").graph, "w", most=ROWS) == ["w"]
    looked_up = tied_model().graph
    assert split_rows(looked_up, "w", most=16) == ["w"]
    assert [one.name for one in looked_up.inputs] == ["ids", "x", "w"]


def test_codes_of_another_size_are_refused_before_memory_is_read(tmp_path: Path) -> None:
    model = only(tied_model(), "scores")
    read_quantized(model, {"w": "int4"})
    short = quantize(W[:50], "int4")
    with pytest.raises(RuntimeError, match="Got: 50 Expected: 100"):
        run(model, short, tmp_path)


def deep_model(layers: int) -> ir.Model:
    """Square products one after the other, x W₀ᵀ W₁ᵀ …, and then back through all of them."""
    hidden = x = value("x", FLOAT, "n", COLUMNS)
    matrices = [value(f"w{index}", FLOAT, COLUMNS, COLUMNS) for index in range(layers)]
    recorder = tape.Tape()
    for w in matrices:
        turned = recorder.op("Transpose", [w], {"perm": [1, 0]})
        hidden = recorder.op("Relu", [recorder.op("MatMul", [hidden, turned])])
    for w in reversed(matrices):
        hidden = recorder.op("MatMul", [hidden, w])
    hidden.name, hidden.type, hidden.shape = "y", FLOAT, ir.Shape(["n", COLUMNS])
    graph = ir.Graph([x, *matrices], [hidden], nodes=recorder.nodes, opset_imports={"": OPSET})
    return ir.Model(graph, ir_version=IR_VERSION)


def operators_as_they_run(model: ir.Model, folder: Path) -> list[str]:
    """Kinds of operators in the order in which ONNX Runtime runs them."""
    ir.save(model, folder / "deep.onnx")
    options = session_options(threads=1)
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = onnxruntime().InferenceSession(str(folder / "deep.onnx"), options)
    blocks = quantize(W[:COLUMNS], "int8")
    binding = session.io_binding()
    for one in session.get_inputs():
        rows = np.ones((2, COLUMNS), np.float32)
        named = {**blocks.named(one.name.partition(".")[0]), "x": rows}
        binding.bind_cpu_input(one.name, named[one.name])
    binding.bind_output("y", "cpu")
    session.run_with_iobinding(binding)
    events = json.loads(Path(session.end_profiling()).read_text())
    runs = [one for one in events if one["name"].endswith("_kernel_time")]
    return [one["args"]["op_name"] for one in sorted(runs, key=lambda one: one["ts"])]


def test_floats_are_made_for_one_product_at_a_time(tmp_path: Path) -> None:
    layers = 6
    model = deep_model(layers)
    read_quantized(model, {f"w{index}": "int8" for index in range(layers)})
    dequantize_first(model.graph)
    living = most = 0
    ran = operators_as_they_run(model, tmp_path)
    for operator in ran:
        living += operator == "DequantizeLinear"
        most = max(most, living)
        living -= operator in {"MatMul", "FusedMatMul"}
    assert ran.count("DequantizeLinear") == 2 * layers
    assert most == 1
