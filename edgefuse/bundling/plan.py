"""What each way of tuning would cost a model, before anything is done."""

from collections.abc import Sequence

import torch
from msgspec import Struct
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from edgefuse.bundling.classifier import (
    brings_head,
    check_architecture,
    choose_length,
    load_classifier,
    longest_sequence,
)
from edgefuse.bundling.context import context_of_shapes
from edgefuse.hub.copies import with_tensors
from edgefuse.hub.model import load_config
from edgefuse.hub.source import find_source
from edgefuse.layers.chains.modules import expect_batches
from edgefuse.tuning.way import Way
from edgefuse.tuning.ways import WAYS
from edgefuse_devices.errors import InputError, ModelError
from edgefuse_devices.profile import DeviceProfile
from edgefuse_export.memory import available_bytes
from edgefuse_export.module import Loss
from edgefuse_export.quiet import quiet
from edgefuse_export.trace import trace
from edgefuse_runtime.progress import OnProgress, silent

_STAGE = "Tracing the model by every way"
_BYTES = 4
_MOMENTS = 2


class WayPlan(Struct, frozen=True, kw_only=True):
    """A row of the plan.

    Attributes:
        way: What `--tune` calls it.
        summary: What trains.
        possible: Whether the model can be tuned so.
        trained_parameters: Count of elements that get a gradient.
        weight_bytes: Of all parameters, those that the way adds among them.
        gradient_bytes: Of the gradients of what trains.
        optimizer_bytes: Of AdamW's two moments.
        flops: Multiplications and additions of the matrix products of a step's graph, forward and
            backward.
        reason: Why the model cannot be tuned so, and what to do instead.
    """

    way: str
    summary: str
    possible: bool = True
    trained_parameters: int = 0
    weight_bytes: int = 0
    gradient_bytes: int = 0
    optimizer_bytes: int = 0
    flops: int = 0
    reason: str = ""

    @property
    def held_bytes(self) -> int:
        """What training holds whatever the batch is."""
        return self.weight_bytes + self.gradient_bytes + self.optimizer_bytes


class Plan(Struct, frozen=True, kw_only=True):
    """Every way for a model.

    Attributes:
        model: What was given.
        device: The board.
        available_bytes: What training may take of its memory.
        parameters: Count of the model's own.
        batch_size: Rows in a step.
        sequence_length: Tokens in a row.
        ways: A row for each.
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
    classes: int = 2,
    batch_size: int = 16,
    sequence_length: int | None = None,
    revision: str | None = None,
    on_progress: OnProgress = silent,
) -> Plan:
    """Say what every way of tuning would cost a model.

    Args:
        model: A compressed model's directory, a plain model's, or a hub name.
        device: The board.
        classes: How many the head tells apart, where the model brings none.
        batch_size: Rows in a step.
        sequence_length: Tokens in a row; None for 128 or what the model takes.
        revision: Branch, tag or commit on the hub.
        on_progress: Observer, called after each way.

    Raises:
        InputError: The model or the sizes do not hold.
    """
    source = find_source(model, revision)
    config = load_config(source)
    check_architecture(config, model)
    count = int(config.num_labels or classes) if brings_head(config) else classes
    labels = [str(index) for index in range(count)]
    classifier = load_classifier(source, labels, padding_id=None)
    longest = longest_sequence(classifier)
    length = choose_length(sequence_length, longest)
    return Plan(
        model=source.label,
        device=device.name,
        available_bytes=available_bytes(device),
        parameters=classifier.num_parameters(),
        batch_size=batch_size,
        sequence_length=length,
        ways=plan_ways(
            classifier, batch_size=batch_size, sequence_length=length, on_progress=on_progress
        ),
    )


def plan_ways(
    model: PreTrainedModel,
    *,
    batch_size: int,
    sequence_length: int,
    on_progress: OnProgress = silent,
) -> list[WayPlan]:
    """Count, for every way with its own options, with shapes alone: nothing is computed.

    Args:
        model: A classifier in the form that graphs are made of. It is not changed.
        batch_size: Rows in a step.
        sequence_length: Tokens in a row; fewer where a way's prefixes leave fewer positions.
        on_progress: Observer, called after each way.
    """
    shape, steps = (batch_size, sequence_length), _Steps()
    rows: list[WayPlan] = []
    for kind in WAYS:
        on_progress(_STAGE, len(rows), len(WAYS))
        rows.append(_plan(model, kind(), shape, steps))
    on_progress(_STAGE, len(rows), len(WAYS))
    return rows


def _plan(original: PreTrainedModel, way: Way, shape: tuple[int, int], steps: "_Steps") -> WayPlan:
    model = with_tensors(original, torch.empty_like)  # which touches no memory
    try:
        prepared = way.prepare(model, context_of_shapes())
        rows, longest = shape[0], longest_sequence(original) - prepared.positions
        length = choose_length(min(shape[1], longest), longest)
        expect_batches(model, rows * length)
        flops = steps.flops(model, (rows, length))
    except InputError as error:
        return WayPlan(way=way.name, summary=way.summary, possible=False, reason=str(error))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return WayPlan(
        way=way.name,
        summary=way.summary,
        trained_parameters=trained,
        weight_bytes=model.num_parameters() * _BYTES,
        gradient_bytes=trained * _BYTES,
        optimizer_bytes=trained * _BYTES * _MOMENTS,
        flops=flops,
    )


class _Steps:
    """Counts operations of training steps; models of the same modules are traced once."""

    def __init__(self) -> None:
        self._traced: dict[object, nn.Module] = {}

    @quiet()
    def flops(self, model: PreTrainedModel, shape: tuple[int, int]) -> int:
        """Multiplications and additions of the matrix products in the graph that is exported.

        Args:
            model: What of it requires a gradient gets one.
            shape: (batch, sequence).

        Raises:
            ModelError: It cannot be traced or counted: what it computes depends on numbers.
        """
        loss = Loss(model)
        modules = tuple((name, type(module)) for name, module in loss.named_modules())
        shapes = tuple((name, tensor.shape) for name, tensor in loss.state_dict().items())
        if (modules, shapes) not in self._traced:
            program = trace(loss, vocabulary=1, labels=int(model.config.num_labels or 2))
            self._traced[modules, shapes] = program.module()
        fakes = FakeTensorMode(allow_non_fake_inputs=True)  # of a trace's own constants
        step = with_tensors(self._traced[modules, shapes], fakes.from_tensor)
        for name, parameter in loss.named_parameters(remove_duplicate=False):
            step.get_parameter(name).requires_grad_(parameter.requires_grad)
        with fakes, FlopCounterMode(display=False) as counter:
            input_ids = torch.ones(shape, dtype=torch.int64)
            classes = torch.zeros(shape[0], dtype=torch.int64)
            try:
                step(input_ids, torch.ones_like(input_ids), classes)[0].backward()
            except RuntimeError as error:
                raise ModelError(
                    f"A step of {type(model).__name__} cannot be counted without computing "
                    f"it: {str(error).splitlines()[0]}",
                    "Choose by what trains: it grows with the layers above the lowest of that",
                ) from error
        return int(counter.get_total_flops())
