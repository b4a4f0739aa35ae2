"""`edgefuse plan` as a plain function: what each way of tuning would cost a model."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from msgspec import Struct
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from edgefuse.bundling.chains import plain_form
from edgefuse.bundling.context import context_of_shapes
from edgefuse.bundling.engine import suitable_engine
from edgefuse.bundling.fused import fused_mlps
from edgefuse.bundling.length import choose_length, longest_sequence
from edgefuse.bundling.load import facts_of, load_with_head
from edgefuse.bundling.prediction import predict_memory
from edgefuse.hub.copies import with_tensors
from edgefuse.hub.model import load_config
from edgefuse.hub.source import find_source
from edgefuse.layers.chains.modules import expect_batches
from edgefuse.tuning.way import Way
from edgefuse.tuning.ways import WAYS, find_way
from edgefuse_devices.errors import InputError, ModelError
from edgefuse_devices.profile import DeviceProfile
from edgefuse_export.memory import available_bytes
from edgefuse_export.silence import silence
from edgefuse_export.source import Source
from edgefuse_export.tasks.task import ExportTask, WantedTask
from edgefuse_export.trace import example, trace
from edgefuse_runtime.optimizers.adamw import AdamW
from edgefuse_runtime.optimizers.optimizer import Optimizer, state_elements
from edgefuse_runtime.progress import OnProgress, silent
from edgefuse_runtime.training.memory_plan import MemoryPlan

_STAGE = "Making the training graphs of every way"
_BYTES = 4


class WayPlan(Struct, frozen=True, kw_only=True):
    """What one way of tuning would cost a model.

    Attributes:
        way: Name of the way, as `--tune` takes it.
        summary: What trains.
        possible: Whether the model can be tuned this way.
        engine: Name of the engine that an export takes where none is asked for.
        trained_parameters: Count of elements that get a gradient.
        weight_bytes: Bytes of all parameters, those that the way adds among them.
        gradient_bytes: Bytes of the gradients of what trains.
        optimizer_bytes: Bytes of the optimizer's states.
        predicted_bytes: Bytes that training is expected to hold at the most, files of the bundle
            that are mapped not counted.
        kept_layers: Layers whose insides are kept then, where an engine chooses how many.
        flops: Multiplications and additions of the matrix products of a step's graph, forward and
            backward.
        reason: Why the model cannot be tuned this way, and what to do instead.
    """

    way: str
    summary: str
    possible: bool = True
    engine: str = ""
    trained_parameters: int = 0
    weight_bytes: int = 0
    gradient_bytes: int = 0
    optimizer_bytes: int = 0
    predicted_bytes: int = 0
    kept_layers: int = 0
    flops: int = 0
    reason: str = ""


class Plan(Struct, frozen=True, kw_only=True):
    """What every way of tuning would cost a model.

    Attributes:
        model: Name of the model, as records keep it.
        device: Name of the board.
        available_bytes: Bytes of the board's memory that training may take.
        parameters: Count of the model's own parameters.
        batch_size: Count of rows in a step.
        sequence_length: Count of tokens in a row.
        ways: Costs of each way.
    """

    model: str
    device: str
    available_bytes: int
    parameters: int
    batch_size: int
    sequence_length: int
    ways: Sequence[WayPlan]


def plan(
    model: str,
    *,
    device: DeviceProfile,
    task: WantedTask,
    batch_size: int = 16,
    tune: Sequence[str | Way] = (),
    sequence_length: int | None = None,
    optimizer: Optimizer | None = None,
    revision: str | None = None,
    on_progress: OnProgress = silent,
) -> Plan:
    """Count what ways of tuning would cost a model.

    Args:
        model: A compressed model's directory, a plain model's, a GGUF file, or a hub
            name.
        device: The board.
        task: What the model is to be trained for.
        batch_size: Count of rows in a step.
        tune: Ways of tuning, or their names; none for all.
        sequence_length: Count of tokens in a row; None for 128 or what the model takes.
        optimizer: The optimizer; None for AdamW.
        revision: Branch, tag or commit on the hub.
        on_progress: Observer, called after each way.

    Raises:
        InputError: The model or the sizes do not hold.
    """
    if batch_size < 1:
        raise InputError(f"--batch-size is {batch_size}", "Give at least 1")
    ways = [find_way(name) for name in tune] or None
    source = find_source(model, revision)
    config = load_config(source)
    export_task = task.of_model(facts_of(source, config, model))
    with_head = load_with_head(source, export_task, padding_id=None)
    longest = longest_sequence(with_head)
    length = choose_length(sequence_length, longest)
    task.check_length(length)
    available = available_bytes(device)
    return Plan(
        model=source.label,
        device=device.name,
        available_bytes=available,
        parameters=with_head.num_parameters(),
        batch_size=batch_size,
        sequence_length=length,
        ways=plan_ways(
            with_head,
            export_task,
            batch_size=batch_size,
            sequence_length=length,
            optimizer=optimizer,
            ways=ways,
            predict=partial(predict_memory, budget=available),
            on_progress=on_progress,
        ),
    )


def plan_ways(
    model: PreTrainedModel,
    task: ExportTask,
    *,
    batch_size: int,
    sequence_length: int,
    optimizer: Optimizer | None = None,
    ways: Sequence[Way] | None = None,
    predict: Callable[..., MemoryPlan] | None = None,
    on_progress: OnProgress = silent,
) -> list[WayPlan]:
    """Count what ways of tuning would cost; nothing is computed.

    Args:
        model: A model in the form that graphs are made of. It is not changed.
        task: What the model is trained for.
        batch_size: Count of rows in a step.
        sequence_length: Count of tokens in a row; fewer where a way's prefixes leave fewer.
        optimizer: The optimizer; None for AdamW.
        ways: The ways; None for every one, with its default options.
        predict: Predicts what training holds, as `predict_memory` does; None predicts nothing.
        on_progress: Observer, called after each way.
    """
    source = Source(
        task=task,
        model=model,
        inference=None,
        merges=[],
        fused=fused_mlps(plain_form(model)),
        optimizer=optimizer or AdamW(),
        dropout=None,
        vocabulary=model.config.vocab_size,
    )
    shape, steps = (batch_size, sequence_length), _Steps(task)
    ways = [kind() for kind in WAYS] if ways is None else ways
    rows: list[WayPlan] = []
    for way in ways:
        on_progress(_STAGE, len(rows), len(ways))
        rows.append(_plan(model, source, way, shape, steps, predict=predict))
    on_progress(_STAGE, len(rows), len(ways))
    return rows


def _plan(
    original: PreTrainedModel,
    source: Source,
    way: Way,
    shape: tuple[int, int],
    steps: "_Steps",
    *,
    predict: Callable[..., MemoryPlan] | None,
) -> WayPlan:
    model = with_tensors(original, torch.zeros_like)  # which touches no memory
    try:
        prepared = way.prepare(model, context_of_shapes(source.task))
        rows, longest = shape[0], longest_sequence(original) - prepared.positions
        length = choose_length(min(shape[1], longest), longest)
        expect_batches(model, rows * length)
        flops, unused = steps.count(model, (rows, length))
        tuned = replace(source, model=model)
        engine = suitable_engine(tuned)
        predicted = (
            predict(tuned, engine, rows=rows, tokens=length) if predict else MemoryPlan(rows, 0, 0)
        )
    except InputError as error:
        return WayPlan(way=way.name, summary=way.summary, possible=False, reason=str(error))
    shapes = [
        p.shape for name, p in model.named_parameters() if p.requires_grad and name not in unused
    ]
    trained = sum(map(math.prod, shapes))
    return WayPlan(
        way=way.name,
        summary=way.summary,
        engine=engine,
        trained_parameters=trained,
        weight_bytes=model.num_parameters() * _BYTES,
        gradient_bytes=trained * _BYTES,
        optimizer_bytes=_BYTES * state_elements(source.optimizer, shapes),
        predicted_bytes=predicted.bytes,
        kept_layers=predicted.kept_layers,
        flops=flops,
    )


class _Steps:
    """Training steps, whose operations are counted; models of the same modules are traced once."""

    def __init__(self, task: ExportTask) -> None:
        self._task = task
        self._traced: dict[object, nn.Module] = {}

    @silence()
    def count(self, model: PreTrainedModel, shape: tuple[int, int]) -> tuple[int, set[str]]:
        """Count multiplications and additions of the matrix products in the exported graph.

        Args:
            model: The model; its parameters that require a gradient get one.
            shape: Shape of a batch, (rows, tokens).

        Returns:
            The count, and the names of the model's parameters that get no gradient.

        Raises:
            ModelError: The model cannot be traced or counted: what it computes depends on numbers.
        """
        loss = self._task.loss(model)
        modules = tuple((name, type(module)) for name, module in loss.named_modules())
        shapes = tuple((name, tensor.shape) for name, tensor in loss.state_dict().items())
        if (modules, shapes) not in self._traced:
            program = trace(self._task, model, vocabulary=1)
            self._traced[modules, shapes] = program.module()
        fakes = FakeTensorMode(allow_non_fake_inputs=True)  # of a trace's own constants
        step = with_tensors(self._traced[modules, shapes], fakes.from_tensor)
        for name, parameter in loss.named_parameters(remove_duplicate=False):
            step.get_parameter(name).requires_grad_(parameter.requires_grad)
        with fakes, FlopCounterMode(display=False) as counter:
            batch = example(self._task, shape, vocabulary=1)
            try:
                step(*map(torch.zeros_like, batch.values()))[0].backward()
            except RuntimeError as error:
                raise ModelError(
                    f"A step of {type(model).__name__} cannot be counted without computing "
                    f"it: {str(error).splitlines()[0]}",
                    "Choose by what trains: it grows with the layers above the lowest of that",
                ) from error
        unused = {
            name
            for name, parameter in model.named_parameters()
            if step.get_parameter(f"model.{name}").grad is None
        }
        return int(counter.get_total_flops()), unused
