"""A torch model → the four artifacts of onnxruntime-training's on-device API.

    training_model.onnx    batch → loss, logits, gradient_norm; adds clipped gradients to buffers
    eval_model.onnx        batch → loss, logits
    optimizer_model.onnx   one AdamW step over those buffers
    checkpoint             trained and frozen parameters

The forward graph comes from torch's exporter, the gradients from onnxruntime-training's own
builder (`GradientGraphBuilder`). What it gets wrong or leaves out is mended here:

- its gradient of LayerNormalization reads the two optional outputs, which exporters leave out;
- its AdamW block is that of Hugging Face's old optimizer, the kernel can do torch's as well;
- its clipping weighs all gradients alike, and hides the norm;
- it stamps files with an IR version that its own reader refuses.

Runs where onnxruntime-training is installed in onnxruntime's place: `docs/onnxruntime-training.md`.
"""

import os
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from edgefuse_devices.errors import ModelError
from edgefuse_export.engines.engine import TrainingContents, TrainingGraphs
from edgefuse_export.fused_mlp import FusedMLP
from edgefuse_export.passes.norm_weights import norm_weights
from edgefuse_export.source import Source
from edgefuse_export.tasks.task import ExportTask
from edgefuse_export.trace import TRACED_SHAPE, example
from edgefuse_export.whole import WholeGraphs, whole_graphs
from edgefuse_runtime.engines.onnxruntime_training import OnnxRuntimeTraining
from edgefuse_runtime.graph.merges import Merge
from edgefuse_runtime.graph.parameters import Parameter
from edgefuse_runtime.optimizers.adamw import AdamW
from edgefuse_runtime.session import onnxruntime

_OPSET = 18  # the lowest that torch's exporter writes, and one that onnxruntime 1.19 knows well
_IR_VERSION = 10  # the newest that onnxruntime 1.19 reads
_TORCH_ADAMW = 0  # `adam_mode`: decay first, eps beside the corrected root
_TARGET = "target"  # what some of the losses call the input that others call `labels`
_CLIP_EPS = 1e-6  # as torch.nn.utils.clip_grad_norm_


class OnnxRuntimeTrainingExport:
    """The artifacts of onnxruntime-training, in the bundle's `training/`."""

    keeps_few_bits: ClassVar[bool] = False

    def spec(self, graphs: TrainingGraphs | None = None) -> OnnxRuntimeTraining:  # noqa: ARG002
        """The engine, of the version that is installed here."""
        return OnnxRuntimeTraining(version=onnxruntime().__version__)

    def refusal(self, task: ExportTask) -> str:
        """Why the engine cannot train a task: it has few losses, and they take one output."""
        if task.training_api_loss is None or len(task.outputs) != 1:
            return f"onnxruntime-training has no loss for {task.task.summary}"
        return ""

    def graphs(self, source: Source) -> WholeGraphs:
        """One graph of the whole model, of which inference is cut out."""
        return whole_graphs(source)

    def write(self, contents: TrainingContents) -> None:
        """Write the artifacts.

        Raises:
            ModelError: The engine cannot train the model.
        """
        source = contents.source
        assert isinstance(source.optimizer, AdamW), "the engine's refusal came before"
        folder = contents.folder / "training"
        folder.mkdir()
        batch = example(source.task, TRACED_SHAPE, vocabulary=source.vocabulary)
        write_training_artifacts(
            source.model,
            source.task,
            {name: batch[name] for name in source.task.inputs},
            contents.parameters,
            optimizer=source.optimizer,
            directory=folder,
            fused=source.fused,
            merges=source.merges,
        )


def write_training_artifacts(
    model: nn.Module,
    task: ExportTask,
    inputs: Mapping[str, Tensor],
    parameters: Sequence[Parameter],
    *,
    optimizer: AdamW,
    directory: Path,
    fused: Sequence[FusedMLP] = (),
    merges: Sequence[Merge] = (),
) -> None:
    """Write the artifacts that `OnnxRuntimeTrainingEngine` trains from.

    Args:
        model: The model, float32, in evaluation mode (no dropout), with eager attention.
            `model(**inputs)` gives the task's one output, alone or as an entry of a model output. P
            of a fused block stays standalone: a buffer, hence a constant.
        task: What the model is trained for; its loss is one of onnxruntime-training's own.
        inputs: Example batch, at least 2 × 2 so that nothing is specialised: int64 tensors of
            shape (batch, sequence). Both dimensions are dynamic in the graphs.
        parameters: What trains. The optimizer graph decays all of them: it cannot tell one from
            another (`docs/onnxruntime-training.md`); the engine exempts those without `decay`.
        optimizer: Constants of the optimizer; a `max_gradient_norm` of 0 turns clipping off.
        directory: An existing directory.
        fused: The model's fused blocks: their rows weigh 1/√n in the global norm.
        merges: Recipes of weights that train in parts.

    Raises:
        EdgeFuseError: onnxruntime is not installed.
        ModelError: onnxruntime-training is not installed in its place, or knows no gradient of
            one of the model's operators.
    """
    onnxruntime()
    try:
        from onnxruntime.training import artifacts, onnxblock  # noqa: PLC0415 - not everywhere
    except ImportError as error:
        raise ModelError(
            "the onnxruntime of this environment has no training API",
            "Export in an environment made as docs/onnxruntime-training.md says, with "
            "constraints-ort-training.txt",
        ) from error

    assert task.training_api_loss is not None, "the engine's refusal came before"
    (output,) = task.outputs
    trained = {parameter.name for parameter in parameters}
    with _silence():
        forward = _export_forward(model, inputs, output)
        known = {initializer.name for initializer in forward.graph.initializer}
        frozen = {name for name, _ in model.named_parameters()} & known - trained
        try:
            artifacts.generate_artifacts(
                forward,
                requires_grad=sorted(trained),
                frozen_params=sorted(frozen),
                loss=artifacts.LossType[task.training_api_loss],
                optimizer=onnxblock.optim.AdamW(
                    betas=(optimizer.beta1, optimizer.beta2),
                    eps=optimizer.eps,
                    weight_decay=optimizer.weight_decay,
                ),
                artifact_directory=directory,
                additional_output_names=[output],
            )
        except RuntimeError as error:
            raise ModelError(
                "onnxruntime-training builds no gradients for this model: "
                + str(error).strip().rpartition(" : ")[2].rstrip("."),
                "Export it with --engine onnxruntime",
            ) from error

    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    weights = {
        name: weight.broadcast(tensors[name].ndim)
        for name, weight in norm_weights(fused, merges, tensors).items()
    }
    training = onnx.load(directory / "training_model.onnx")
    _clip_gradients(training, sorted(trained), optimizer.max_gradient_norm, weights)
    evaluation = onnx.load(directory / "eval_model.onnx")
    for name, model_proto in (("training_model", training), ("eval_model", evaluation)):
        _rename_input(model_proto, _TARGET, task.targets[0])
        _save(model_proto, directory / f"{name}.onnx")
    adamw = onnx.load(directory / "optimizer_model.onnx")
    _use_torch_adamw(adamw)
    _save(adamw, directory / "optimizer_model.onnx")


def _export_forward(model: nn.Module, inputs: Mapping[str, Tensor], output: str) -> onnx.ModelProto:
    """Export batch → the task's output, parameters under their own names.

    torch's optimizer stays off: it would fold the transposes of weights into new constants, which
    then no longer train. onnxruntime-training optimizes the graph itself.
    """
    try:
        program = torch.onnx.export(
            _with_one_output(model, inputs, output),
            tuple(inputs.values()),
            dynamo=True,
            opset_version=_OPSET,
            optimize=False,
            input_names=[*inputs],
            dynamic_shapes=((*({0: "batch", 1: "sequence"} for _ in inputs),),),
            output_names=[output],
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise ModelError(
            f"{type(model).__name__} cannot be written as onnxruntime-training needs it: "
            f"{error.__cause__ or error}",
            "Export it with --engine onnxruntime",
        ) from error
    assert program is not None
    forward = program.model_proto
    for node in forward.graph.node:
        if node.op_type == "LayerNormalization" and len(node.output) == 1:
            node.output.extend([f"{node.output[0]}_mean", f"{node.output[0]}_inverse_deviation"])
    return forward


def _with_one_output(model: nn.Module, inputs: Collection[str], output: str) -> nn.Module:
    """The model with its own tensors and names, without what decoders give besides: a cache."""
    kind = type(model)

    def forward(self: nn.Module, *tensors: Tensor) -> Tensor:
        given = kind.forward(self, **dict(zip(inputs, tensors, strict=True)))
        only: Tensor = getattr(given, output, given)
        return only

    alone = copy(model)
    alone.__class__ = type(kind.__name__, (kind,), {"forward": forward})
    return alone


def _clip_gradients(
    model: onnx.ModelProto, names: Sequence[str], max_norm: float, weights: Mapping[str, np.ndarray]
) -> None:
    """Put clipping at the global norm between the gradients and their buffers.

    g_i ───────────────────▶ buffer            before

    g_i (× weight) ─▶ Σ² ─▶ Σ ─▶ √ ─▶ norm     after; norm becomes an output
    g_i × min(1, max_norm / (norm + 1e-6)) ─▶ buffer
    """
    graph = model.graph
    nodes: list[NodeProto] = []

    def constant(name: str, value: np.ndarray | float) -> str:
        graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def add(operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    squares = []
    for name in names:
        gradient = f"{name}_grad"
        if name in weights:
            weight = constant(f"{name}_norm_weight", weights[name])
            gradient = add("Mul", [gradient, weight], f"{name}_grad_weighed")
        squares.append(add("ReduceSumSquare", [gradient], f"{name}_grad_square", keepdims=0))
    norm = add("Sqrt", [add("Sum", squares, "gradient_norm_square")], "gradient_norm")
    if max_norm:
        divisor = add("Add", [norm, constant("clip_eps", _CLIP_EPS)], "clip_divisor")
        quotient = add("Div", [constant("clip_max_norm", max_norm), divisor], "clip_quotient")
        factor = add("Min", [quotient, constant("clip_one", 1.0)], "clip_factor")
        for name in names:
            add("Mul", [f"{name}_grad", factor], f"{name}_grad_clipped")

    accumulators = [node for node in graph.node if node.op_type == "InPlaceAccumulatorV2"]
    for node in accumulators:
        graph.node.remove(node)
        if max_norm:
            node.input[1] = f"{node.input[1]}_clipped"
    graph.node.extend([*nodes, *accumulators])

    user_outputs = len(graph.output) - len(accumulators)
    graph.output.insert(user_outputs, helper.make_tensor_value_info(norm, TensorProto.FLOAT, []))


def _rename_input(model: onnx.ModelProto, name: str, new_name: str) -> None:
    """Give an input another name, where there is one of that name."""
    for value in model.graph.input:
        if value.name == name:
            value.name = new_name
    for node in model.graph.node:
        for index, taken in enumerate(node.input):
            if taken == name:
                node.input[index] = new_name


def _use_torch_adamw(model: onnx.ModelProto) -> None:
    (node,) = (node for node in model.graph.node if node.op_type == "AdamWOptimizer")
    (mode,) = (attribute for attribute in node.attribute if attribute.name == "adam_mode")
    mode.i = _TORCH_ADAMW


def _save(model: onnx.ModelProto, path: Path) -> None:
    model.ir_version = min(model.ir_version, _IR_VERSION)
    onnx.save(model, path)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep native code off standard error, and torch's exporter from warning of itself.

    The gradient builder logs its every pass, and no setting of onnxruntime stops it.
    """
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


__all__ = ["write_training_artifacts"]
