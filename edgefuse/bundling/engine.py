"""Which engine a bundle is for: the one that is asked for, or the one that suits the model."""

from collections.abc import Collection

from edgefuse_devices.errors import InputError
from edgefuse_devices.names import unknown
from edgefuse_export.engines.engine import EngineExport
from edgefuse_export.engines.registry import ENGINE_EXPORTS
from edgefuse_export.source import Source
from edgefuse_export.stacks.training import suits_layers
from edgefuse_export.tasks.task import ExportTask
from edgefuse_runtime.engines.onnxruntime import OnnxRuntime
from edgefuse_runtime.engines.onnxruntime_layers import OnnxRuntimeLayers
from edgefuse_runtime.graph.masks import GradientMask
from edgefuse_runtime.tagged import name_of

_OTHERWISE = "Export with --engine onnxruntime, or train otherwise"


def find_engine(name: str) -> EngineExport:
    """The engine of a name.

    Raises:
        InputError: There is none.
    """
    if name not in ENGINE_EXPORTS:
        raise InputError(*unknown("engine", name, list(ENGINE_EXPORTS)))
    return ENGINE_EXPORTS[name]


def suitable_engine(source: Source) -> str:
    """Name of the engine for a model where none is asked for.

    Layer by layer where that gains something, otherwise one graph of the whole model.

    Args:
        source: The model, and how it trains.
    """
    return name_of(OnnxRuntimeLayers if suits_layers(source) else OnnxRuntime)


def check_task(engine: EngineExport, task: ExportTask) -> None:
    """Refuse a task that an engine cannot train, before the model is prepared and traced.

    Raises:
        InputError: The engine cannot train it.
    """
    if refusal := engine.refusal(task):
        raise InputError(refusal, _OTHERWISE)


def check_engine(
    engine: EngineExport, source: Source, *, rates: Collection[float], mask: GradientMask | None
) -> None:
    """Refuse what an engine cannot train with.

    Args:
        engine: The engine.
        source: The model, and how it trains.
        rates: Factors on the learning rate of parameters.
        mask: Which part of the gradients counts.

    Raises:
        InputError: The engine cannot train so.
    """
    refusal = engine.spec().refusal(
        rates=rates, mask=mask, optimizer=source.optimizer, dropout=source.dropout is not None
    )
    if refusal:
        raise InputError(refusal, _OTHERWISE)
