"""onnxruntime-training trains as torch does, fused or not, and goes on where it stopped."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnxruntime.training.api import CheckpointState, Module, Optimizer

from edgefuse_export.engines.onnxruntime_training import OnnxRuntimeTrainingExport
from edgefuse_export.tasks.text_classification import TextClassificationExport
from edgefuse_runtime.engines.onnxruntime_training import OnnxRuntimeTrainingEngine
from edgefuse_runtime.inference.bound import BoundGraph
from edgefuse_runtime.tasks.text_classification import TextClassification
from tests.ort_training.training_case import (
    CASES,
    LABELS,
    LEARNING_RATE,
    STEPS,
    TASK,
    Case,
    batches,
    load,
    make_artifacts,
    train_with_torch,
)

pytestmark = pytest.mark.ort_training

FUSED = Case(fused=True, tuning="full")


@pytest.fixture(scope="module")
def source(pico_model):
    return pico_model("bert", num_labels=LABELS)


@pytest.fixture(scope="module")
def artifacts(source, tmp_path_factory):
    return make_artifacts(load(source, FUSED), FUSED, tmp_path_factory.mktemp("bundle") / "fused")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_twenty_steps_are_those_of_torch(case, source, tmp_path):
    model = load(source, case)
    engine = OnnxRuntimeTrainingEngine(make_artifacts(model, case, tmp_path / "bundle"))
    steps = [engine.step(batch, LEARNING_RATE) for batch in batches()]

    losses, norms = train_with_torch(model, case)

    assert [step.loss for step in steps] == pytest.approx(losses, abs=1e-5)
    assert [step.gradient_norm for step in steps] == pytest.approx(norms, rel=1e-4)
    assert min(norms) < 1 < max(norms) or case.tuning == "head", "clips some steps, not all"
    parameters = engine.parameters()
    assert parameters.keys() == {
        name
        for name, _ in model.named_parameters()
        if case.tuning == "full" or name.startswith("classifier")
    }
    for name, value in parameters.items():
        if not name.endswith("key.bias"):  # their true gradient is zero: Adam steps on noise
            torch_value = model.get_parameter(name).detach().numpy()
            np.testing.assert_allclose(value, torch_value, atol=2e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["roberta", "distilbert", "electra", "albert"])
def test_every_encoder_that_fuses_trains_too(architecture, pico_model, tmp_path):
    model = load(pico_model(architecture, num_labels=LABELS), FUSED)
    engine = OnnxRuntimeTrainingEngine(make_artifacts(model, FUSED, tmp_path / "bundle"))
    losses = [engine.step(batch, LEARNING_RATE).loss for batch in batches()]

    assert losses == pytest.approx(train_with_torch(model, FUSED)[0], abs=1e-5)


def test_a_regression_of_pairs_is_that_of_torch(pico_model, tmp_path):
    pairs = {"problem_type": "regression", "pairs": True, "token_types": True}
    task = TextClassificationExport(TextClassification(labels=["score"], **pairs))
    model, case = load(pico_model("bert", num_labels=1), FUSED), FUSED
    engine = OnnxRuntimeTrainingEngine(make_artifacts(model, case, tmp_path / "bundle", task))
    rng, ids = np.random.default_rng(3), np.arange(5, 90)
    todo = [task.task.random_feeds(rng, (4, 5 + step), ids, padded=True) for step in range(8)]
    losses = [engine.step(batch, LEARNING_RATE).loss for batch in todo]

    assert losses == pytest.approx(train_with_torch(model, case, todo)[0], abs=1e-5)


def test_a_loss_that_does_not_hold_for_all_logits_is_not_taken():
    kind = {"labels": ["a", "b"], "problem_type": "multi-label"}
    task = TextClassificationExport(TextClassification(**kind))
    sentence = "has no loss for text-classification, any of 2 labels"
    assert sentence in OnnxRuntimeTrainingExport().refusal(task)


def test_another_process_goes_on_bit_for_bit(artifacts, tmp_path):
    half = STEPS // 2
    engine = OnnxRuntimeTrainingEngine(artifacts)
    todo = list(batches())
    for batch in todo[:half]:
        engine.step(batch, LEARNING_RATE)
    np.savez(tmp_path / "state.npz", **engine.state())
    expected = [engine.step(batch, LEARNING_RATE).loss for batch in todo[half:]]

    resumed = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.ort_training.resume",
            artifacts.folder,
            tmp_path / "state.npz",
            str(half),
        ],
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
        text=True,
    )

    assert json.loads(resumed.stdout) == expected


def test_a_state_is_a_copy_that_later_steps_leave_alone(artifacts):
    engine = OnnxRuntimeTrainingEngine(artifacts)
    first, second = list(batches())[:2]
    state = engine.state()
    expected = engine.step(first, LEARNING_RATE).loss
    engine.step(second, LEARNING_RATE)

    engine.load_state(state)

    assert engine.step(first, LEARNING_RATE).loss == expected


def test_a_step_that_is_not_finite_changes_nothing(artifacts):
    engine = OnnxRuntimeTrainingEngine(artifacts)
    expected = OnnxRuntimeTrainingEngine(artifacts)
    first, second = list(batches())[:2]
    values = engine.parameters()
    before = {name: value.copy() for name, value in values.items()}
    values["classifier.bias"][0] = np.nan

    assert np.isnan(engine.step(first, LEARNING_RATE).loss)
    values["classifier.bias"][0] = before["classifier.bias"][0]

    assert all(np.array_equal(value, before[name]) for name, value in values.items())
    assert engine.step(second, LEARNING_RATE) == expected.step(second, LEARNING_RATE)
    for name, value in expected.parameters().items():
        assert np.array_equal(values[name], value), name


def test_multiplicities_stay_constants_of_the_graph(artifacts, source):
    model = load(source, FUSED)
    multiplicities = {
        name: value.numpy() for name, value in model.named_buffers() if "multiplicity" in name
    }
    graph = onnx.load(artifacts.folder / "training" / "training_model.onnx").graph
    constants = {
        initializer.name: numpy_helper.to_array(initializer) for initializer in graph.initializer
    }

    assert len(multiplicities) == 3
    assert max(value.max() for value in multiplicities.values()) > 1
    for name, value in multiplicities.items():
        np.testing.assert_array_equal(constants[name], value)
        assert name not in OnnxRuntimeTrainingEngine(artifacts).parameters()


def test_the_artifacts_serve_the_plain_training_api(artifacts):
    """As its other bindings use them: all four, the evaluation graph included."""
    folder = artifacts.folder / "training"
    batch = next(batches())
    expected = OnnxRuntimeTrainingEngine(artifacts).step(batch, LEARNING_RATE)

    state = CheckpointState.load_checkpoint(folder / "checkpoint")
    module = Module(folder / "training_model.onnx", state, folder / "eval_model.onnx")
    optimizer = Optimizer(folder / "optimizer_model.onnx", module)
    feeds = [batch[name] for name in (*TASK.inputs, *TASK.targets)]
    before, logits = module.eval()(*feeds)
    loss, _, gradient_norm = module.train()(*feeds)
    optimizer.step()
    after, _ = module.eval()(*feeds)

    assert loss == expected.loss
    assert gradient_norm == expected.gradient_norm
    assert before == pytest.approx(loss, abs=1e-6)
    assert logits.shape == (len(batch["labels"]), LABELS)
    assert after < before
    assert all(onnx.load(path).ir_version <= 10 for path in folder.glob("*.onnx"))


def test_what_a_run_gave_outlives_the_next_run(tmp_path):
    """As long as onnxruntime gives references into its binding, which it did up to 1.28."""
    inputs = [onnx.helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])]
    outputs = [onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "yz"]
    nodes = [onnx.helper.make_node("Add", ["x", "x"], ["y"])]
    nodes += [onnx.helper.make_node("Mul", ["x", "x"], ["z"])]
    graph = onnx.helper.make_graph(nodes, "twice", inputs, outputs)
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "x.onnx")
    bound = BoundGraph(tmp_path / "x.onnx", {}, threads=1)

    runs = [bound.run({"x": np.full(size, size, np.float32)}) for size in (5, 5, 100_000, 7)]

    for size, found in zip((5, 5, 100_000, 7), runs, strict=True):
        np.testing.assert_array_equal(found["y"].numpy(), np.full(size, 2.0 * size))
        np.testing.assert_array_equal(found["z"].numpy(), np.full(size, float(size) ** 2))
