"""Model in, bundle out: trace → differentiate → simplify → write → check."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir
from torch import nn
from torch.export import ExportedProgram

from edgefuse_devices import __version__
from edgefuse_devices.errors import InputError
from edgefuse_devices.profile import DeviceProfile
from edgefuse_export.certificate import certify
from edgefuse_export.engines.engine import EngineExport, TrainingContents
from edgefuse_export.fused_mlp import FusedMLP
from edgefuse_export.gradient import forward_graph, gradient_graph
from edgefuse_export.memory import activation_bytes, available_bytes, update_bytes
from edgefuse_export.operators.dropout import Dropout
from edgefuse_export.optimizers.registry import OPTIMIZER_GRAPHS
from edgefuse_export.passes.external_data import as_external_initializers, as_inputs
from edgefuse_export.passes.free_vocabulary import free_rows
from edgefuse_export.passes.gradient_norm import finish_training_graph
from edgefuse_export.passes.inference import inference_graph
from edgefuse_export.passes.neuron_gradients import divide_by_neurons
from edgefuse_export.passes.norm_weights import norm_weights
from edgefuse_export.passes.scatter_into_sum import scatter_into_sums
from edgefuse_export.passes.simplify import simplify
from edgefuse_export.tasks.task import ExportTask
from edgefuse_export.trace import example, trace
from edgefuse_runtime.bundle.bundle import Bundle, describe_files, write_manifest
from edgefuse_runtime.bundle.manifest import Manifest, ModelInfo, PredictedMemory, Tuning
from edgefuse_runtime.checking.batches import write_batches
from edgefuse_runtime.engines.gradient_mask import MASKS
from edgefuse_runtime.files.tensor_file import write_tensors
from edgefuse_runtime.graph.masks import GradientMask
from edgefuse_runtime.graph.merges import Fold, Merge
from edgefuse_runtime.graph.parameters import Parameter
from edgefuse_runtime.inference.model import inference_tensors
from edgefuse_runtime.optimizers.optimizer import Optimizer, decays, state_elements
from edgefuse_runtime.progress import OnProgress, silent

BATCH_SIZES = (16, 8, 4, 2, 1)


@dataclass(frozen=True)
class Request:
    """What to export, decided before anything is done.

    Attributes:
        task: What the model is trained for.
        model: A model with the task's head in evaluation mode, float32, with eager attention; the
            parameters that require a gradient are trained.
        info: Origin of the model.
        fused: The model's fused blocks.
        tuning: Name of the way of tuning.
        not_plain: What keeps plain transformers from loading what was trained.
        without_gradient: Names of parameters that the way of tuning would train, and cannot.
        learning_rate: Peak that suits the way of tuning.
        inference: The model as it infers, where `merges` make that another one.
        merges: Recipes of the weights that `inference` has and `model` has in parts.
        rates: Factors on the learning rate, by parameter, where they are not 1.
        mask: Which part of the gradients counts.
        kept: Truth values by parameter, where the entries that count are chosen.
        optimizer: The optimizer.
        dropout: How training drops activations; None for not at all.
        padding_id: Token id that pads.
        vocabulary: Count of token ids.
        batch_size: Rows in a batch; None for the most, up to 16, that the board's memory takes.
        sequence_length: Longest sequence, in tokens.
        device: The board.
        engine: The engine whose graphs to write.
    """

    task: ExportTask
    model: nn.Module
    info: ModelInfo
    fused: Sequence[FusedMLP]
    tuning: str
    not_plain: str
    without_gradient: Sequence[str]
    learning_rate: float
    inference: nn.Module | None
    merges: Sequence[Merge]
    rates: Mapping[str, float]
    mask: GradientMask | None
    kept: Mapping[str, np.ndarray]
    optimizer: Optimizer
    dropout: Dropout | None
    padding_id: int
    vocabulary: int
    batch_size: int | None
    sequence_length: int
    device: DeviceProfile
    engine: EngineExport


def write_bundle(request: Request, directory: Path, *, on_progress: OnProgress = silent) -> Bundle:
    """Write a bundle into an empty directory; tokenizer and configuration may be there already.

    Args:
        request: What to export.
        directory: An existing directory.
        on_progress: Observer, called before each of `STAGES`.

    Raises:
        InputError: Not even one row fits into the board's memory.
        InternalError: A graph does not compute what torch computes.
    """
    task, model = request.task, request.model
    tensors = {name: value.numpy() for name, value in model.state_dict().items()}
    on_progress(STAGES[0], 0, len(STAGES))
    forward = _trace(request, model, request.dropout)

    on_progress(STAGES[1], 1, len(STAGES))
    training = gradient_graph(forward, task.outputs)
    trainable = _trainable(model, training)
    as_inputs(training, tensors.keys())
    simplify(training)
    scatter_into_sums(training.graph)
    inference = _inference(request, training)
    weights = norm_weights(request.fused, request.merges, tensors)
    shares: dict[str, np.ndarray] = {}
    if request.optimizer.follows_gradient:
        shares = {n: w.neurons(tensors[n].ndim) for n, w in weights.items() if n in trainable}
        divide_by_neurons(training.graph, weights)
        weights = {name: weight.inverse for name, weight in weights.items()}
    finish_training_graph(training, outputs=task.outputs, trainable=trainable, weights=weights)
    parameters = [
        Parameter(
            name=name,
            shape=list(tensors[name].shape),
            gradient=f"gradient.{name}",
            # Decay would move the entries that a fixed mask holds in place.
            decay=decays(tensors[name].ndim) and name not in request.kept,
            free_rows=free_rows(training.graph, name, padding_id=request.padding_id),
            rate=request.rates.get(name, 1.0),
        )
        for name in trainable
    ]

    on_progress(STAGES[2], 2, len(STAGES))
    memory, batch_size = _plan_memory(request, training, parameters, tensors)
    manifest = Manifest(
        edgefuse_version=__version__,
        engine=request.engine.spec(),
        task=task.task,
        model=request.info,
        tuning=Tuning(
            method=request.tuning,
            trained_parameters=sum(tensors[n].size for n in trainable),
            learning_rate=request.learning_rate,
            not_plain=request.not_plain,
            without_gradient=list(request.without_gradient),
            dropout=request.dropout.as_given if request.dropout else None,
        ),
        optimizer=request.optimizer,
        inputs=list(task.inputs),
        padding_id=request.padding_id,
        sequence_length=request.sequence_length,
        batch_size=batch_size,
        parameters=parameters,
        merges=[*request.merges, *map(_fold, request.fused)],
        gradient_mask=request.mask,
        device=request.device,
        predicted_memory=memory,
        certificate=None,
        files={},
    )
    bundle = Bundle(directory, manifest, "")
    _write_tensors(bundle, tensors)
    _write_masks(bundle, request.kept)
    _write_inference(bundle, inference)
    request.engine.write(
        TrainingContents(
            folder=directory,
            task=task,
            model=model,
            graph=training,
            parameters=parameters,
            optimizer=request.optimizer,
            fused=request.fused,
            merges=request.merges,
            norm_weights=weights,
            vocabulary=request.vocabulary,
        )
    )

    on_progress(STAGES[3], 3, len(STAGES))
    certificate, batches = certify(
        task,
        model,
        bundle,
        vocabulary=request.vocabulary,
        weights=weights,
        shares=shares,
        dropout=request.dropout,
    )
    write_batches(directory, batches)
    manifest = msgspec.structs.replace(
        manifest, certificate=certificate, files=describe_files(directory)
    )
    return write_manifest(directory, manifest)


STAGES = (
    "Tracing the model",
    "Differentiating the loss",
    "Writing the bundle",
    "Checking loss and gradients against torch",
)


def _trace(request: Request, model: nn.Module, dropout: Dropout | None = None) -> ExportedProgram:
    return trace(request.task, model, vocabulary=request.vocabulary, dropout=dropout)


def _fold(block: FusedMLP) -> Fold:
    axis = block.neuron_axes[block.down_weight]
    return Fold(weight=block.down_weight, multiplicity=block.multiplicity, axis=axis)


def _inference(request: Request, training: ir.Model) -> ir.Model:
    """The training graph's own forward part, or another: where merges or dropout make one."""
    if request.inference is None and request.dropout is None:
        return inference_graph(training, request.task, fused=request.fused)
    model = request.inference or request.model
    forward = forward_graph(_trace(request, model), request.task.outputs)
    as_inputs(forward, model.state_dict().keys())
    simplify(forward)
    return inference_graph(forward, request.task, fused=request.fused)


def _trainable(model: nn.Module, training: ir.Model) -> list[str]:
    """Trained parameters, in the model's order."""
    differentiated = {value.name for value in training.graph.outputs}
    return [name for name, _ in model.named_parameters() if f"gradient.{name}" in differentiated]


def _plan_memory(
    request: Request,
    training: ir.Model,
    parameters: Sequence[Parameter],
    tensors: dict[str, np.ndarray],
) -> tuple[PredictedMemory, int]:
    trained = sum(tensors[p.name].nbytes for p in parameters)
    frozen = sum(t.nbytes for t in tensors.values()) - trained
    shapes = [parameter.shape for parameter in parameters]
    update = update_bytes(OPTIMIZER_GRAPHS[request.optimizer.name](request.optimizer), shapes)

    def predict(batch_size: int) -> PredictedMemory:
        shape = batch_size, request.sequence_length
        batch = example(request.task, shape, vocabulary=request.vocabulary)
        return PredictedMemory(
            parameters=trained,
            gradients=trained,
            optimizer=4 * state_elements(request.optimizer, shapes),
            activations=max(  # one after the other, in the same memory
                activation_bytes(
                    training,
                    {name: tensor.shape for name, tensor in batch.items()},
                    vocabulary=request.vocabulary,
                ),
                update,
            ),
            frozen=frozen,
        )

    if request.batch_size is not None:
        return predict(request.batch_size), request.batch_size
    available = available_bytes(request.device)
    least = request.task.task.smallest_batch
    for batch_size in (size for size in BATCH_SIZES if size >= least):
        memory = predict(batch_size)
        if memory.total <= available:
            return memory, batch_size
    raise InputError(
        f"Training {request.tuning} needs about {memory.total / 2**20:,.0f} MiB even with "
        f"{'one row' if least == 1 else f'{least} rows'} in a batch, and {request.device.title} "
        f"has {request.device.memory_mib:,} MiB, "
        "half of which may be used",
        "Compress the model, train less of it (--tune head), shorten --sequence-length, or name "
        "a board with more memory",
    )


def _write_tensors(bundle: Bundle, tensors: dict[str, np.ndarray]) -> None:
    trained = {parameter.name for parameter in bundle.manifest.parameters}
    for name, part in (
        ("trainable", {n: t for n, t in tensors.items() if n in trained}),
        ("frozen", {n: t for n, t in tensors.items() if n not in trained}),
    ):
        write_tensors(bundle.path / f"{name}.safetensors", part)


def _write_masks(bundle: Bundle, kept: Mapping[str, np.ndarray]) -> None:
    if kept:
        packed = {name: np.packbits(entries) for name, entries in kept.items()}
        write_tensors(bundle.path / MASKS, packed)


def _write_inference(bundle: Bundle, inference: ir.Model) -> None:
    """With weights as inputs for the board, and as initializers for what it converts to.

    Those are in model.safetensors, which `edgefuse convert --to onnx` writes beside model.onnx.
    """
    ir.save(inference, bundle.path / "inference.onnx")
    weights = bundle.path / "model.safetensors"
    write_tensors(weights, inference_tensors(bundle, bundle.trainable()))
    names = [str(v.name) for v in inference.graph.inputs if v.name not in bundle.manifest.inputs]
    as_external_initializers(inference, names, weights, weights.name)
    ir.save(inference, bundle.path / "model.onnx")
    weights.unlink()
