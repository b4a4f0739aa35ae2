"""Model in, bundle out: trace → differentiate → simplify → write → check."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir

from edgefuse_devices import __version__
from edgefuse_devices.errors import InputError
from edgefuse_devices.profile import DeviceProfile
from edgefuse_export.certificate import certify
from edgefuse_export.decoding import write_decoding
from edgefuse_export.engines.engine import EngineExport, TrainingContents
from edgefuse_export.fused_mlp import FusedMLP
from edgefuse_export.memory import available_bytes, update_bytes
from edgefuse_export.optimizers.registry import OPTIMIZER_GRAPHS
from edgefuse_export.passes.external_data import as_external_initializers
from edgefuse_export.source import Source
from edgefuse_runtime.bundle.bundle import (
    MODEL_WITH_PAST,
    Bundle,
    describe_files,
    write_manifest,
)
from edgefuse_runtime.bundle.manifest import Manifest, ModelInfo, PredictedMemory, Tuning
from edgefuse_runtime.checking.batches import write_batches
from edgefuse_runtime.converting.convert import WEIGHTS
from edgefuse_runtime.engines.gradient_mask import MASKS
from edgefuse_runtime.files.tensor_file import write_tensors
from edgefuse_runtime.graph.footprint import Footprint
from edgefuse_runtime.graph.masks import GradientMask
from edgefuse_runtime.graph.merges import Fold
from edgefuse_runtime.graph.parameters import Parameter
from edgefuse_runtime.inference.model import inference_tensors
from edgefuse_runtime.optimizers.optimizer import decays, state_elements
from edgefuse_runtime.progress import OnProgress, silent

BATCH_SIZES = (16, 8, 4, 2, 1)


@dataclass(frozen=True)
class Request:
    """What to export, decided before anything is done.

    Attributes:
        source: The model, and how it trains.
        info: Origin of the model.
        tuning: Name of the way of tuning.
        not_plain: What keeps plain transformers from loading what was trained.
        without_gradient: Names of parameters that the way of tuning would train, and cannot.
        learning_rate: Peak that suits the way of tuning.
        rates: Factors on the learning rate, by parameter, where they are not 1.
        mask: Which part of the gradients counts.
        kept: Truth values by parameter, where the entries that count are chosen.
        padding_id: Token id that pads.
        batch_size: Rows in a batch; None for the most, up to 16, that the board's memory takes.
        sequence_length: Longest sequence, in tokens.
        device: The board.
        engine: The engine whose graphs to write.
    """

    source: Source
    info: ModelInfo
    tuning: str
    not_plain: str
    without_gradient: Sequence[str]
    learning_rate: float
    rates: Mapping[str, float]
    mask: GradientMask | None
    kept: Mapping[str, np.ndarray]
    padding_id: int
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
    source, engine = request.source, request.engine
    task, tensors = source.task, source.tensors
    on_progress(STAGES[0], 0, len(STAGES))
    graphs = engine.graphs(source)
    parameters = [
        Parameter(
            name=name,
            shape=list(tensors[name].shape),
            gradient=f"gradient.{name}",
            # Decay would move the entries that a fixed mask holds in place.
            decay=decays(tensors[name].ndim) and name not in request.kept,
            free_rows=graphs.free_rows(name, padding_id=request.padding_id),
            rate=request.rates.get(name, 1.0),
        )
        for name in graphs.trainable
    ]

    on_progress(STAGES[1], 1, len(STAGES))
    footprint = graphs.footprint()
    memory, batch_size = _plan_memory(request, footprint, parameters)
    manifest = Manifest(
        edgefuse_version=__version__,
        engine=engine.spec(graphs),
        task=task.task,
        model=request.info,
        tuning=Tuning(
            method=request.tuning,
            trained_parameters=sum(tensors[n].size for n in graphs.trainable),
            learning_rate=request.learning_rate,
            not_plain=request.not_plain,
            without_gradient=list(request.without_gradient),
            dropout=source.dropout.as_given if source.dropout else None,
        ),
        optimizer=source.optimizer,
        inputs=list(task.inputs),
        padding_id=request.padding_id,
        sequence_length=request.sequence_length,
        batch_size=batch_size,
        parameters=parameters,
        merges=[*source.merges, *map(_fold, source.fused)],
        gradient_mask=request.mask,
        base=source.base.record if source.base else None,
        device=request.device,
        predicted_memory=memory,
        footprint=footprint,
        certificate=None,
        files={},
    )
    bundle = Bundle(directory, manifest, "")
    _write_tensors(bundle, source)
    _write_masks(bundle, request.kept)
    bundle = _write_inference(bundle, graphs.inference, graphs.decoding)
    engine.write(TrainingContents(directory, source, graphs, parameters))

    on_progress(STAGES[2], 2, len(STAGES))
    certificate, batches = certify(
        task,
        source.model,
        bundle,
        vocabulary=source.vocabulary,
        weights=source.norm_weights,
        shares=source.shares,
        dropout=source.dropout,
    )
    write_batches(directory, batches)
    manifest = msgspec.structs.replace(
        bundle.manifest, certificate=certificate, files=describe_files(directory)
    )
    return write_manifest(directory, manifest)


STAGES = (
    "Tracing and differentiating the model",
    "Writing the bundle",
    "Checking loss and gradients against torch",
)


def _fold(block: FusedMLP) -> Fold:
    axis = block.neuron_axes[block.down_weight]
    return Fold(weight=block.down_weight, multiplicity=block.multiplicity, axis=axis)


def _plan_memory(
    request: Request, footprint: Footprint, parameters: Sequence[Parameter]
) -> tuple[PredictedMemory, int]:
    source, tensors = request.source, request.source.tensors
    optimizer = source.optimizer
    trained = sum(tensors[p.name].nbytes for p in parameters)
    frozen = sum(t.nbytes for t in source.frozen({p.name for p in parameters}).values())
    shapes = [parameter.shape for parameter in parameters]
    update = update_bytes(OPTIMIZER_GRAPHS[optimizer.name](optimizer), shapes)

    def predict(batch_size: int) -> PredictedMemory:
        return PredictedMemory(
            parameters=trained,
            gradients=trained,
            optimizer=4 * state_elements(optimizer, shapes),
            # One after the other, in the same memory:
            activations=max(footprint.at(batch_size, request.sequence_length), update),
            frozen=frozen,
        )

    if request.batch_size is not None:
        return predict(request.batch_size), request.batch_size
    available = available_bytes(request.device)
    least = source.task.task.smallest_batch
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


def _write_tensors(bundle: Bundle, source: Source) -> None:
    trained = [parameter.name for parameter in bundle.manifest.parameters]
    write_tensors(bundle.path / "trainable.safetensors", {n: source.tensors[n] for n in trained})
    write_tensors(bundle.path / "frozen.safetensors", source.frozen(trained))


def _write_masks(bundle: Bundle, kept: Mapping[str, np.ndarray]) -> None:
    if kept:
        packed = {name: np.packbits(entries) for name, entries in kept.items()}
        write_tensors(bundle.path / MASKS, packed)


def _write_inference(bundle: Bundle, inference: ir.Model, decoding: ir.Model | None) -> Bundle:
    """With weights as inputs for the board, and as initializers for what it converts to.

    Those are in model.safetensors, which `edgefuse convert --to onnx` writes beside model.onnx.
    Gives the bundle with what its manifest says of them.
    """
    ir.save(inference, bundle.path / "inference.onnx")
    converted = {"model.onnx": inference}
    writing = write_decoding(bundle, decoding) if decoding is not None else None
    if decoding is not None and writing is not None:
        bundle, converted[MODEL_WITH_PAST] = writing, decoding
    weights, tensors = bundle.path / WEIGHTS, inference_tensors(bundle, bundle.trainable())
    write_tensors(weights, tensors)
    for file, graph in converted.items():
        names = [str(value.name) for value in graph.graph.inputs if value.name in tensors]
        as_external_initializers(graph, names, weights, weights.name)
        ir.save(graph, bundle.path / file)
    weights.unlink()
    return bundle
