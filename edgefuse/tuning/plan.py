"""What each way of tuning would cost a model, before anything is done."""

from collections.abc import Sequence

import torch
from msgspec import Struct
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from edgefuse.models.classifier import (
    brings_head,
    check_architecture,
    choose_length,
    load_classifier,
    longest_sequence,
)
from edgefuse.models.load import find_source, load_config
from edgefuse.tuning.extend import with_tensors
from edgefuse.tuning.way import Way
from edgefuse.tuning.ways import WAYS
from edgefuse_devices.errors import InputError, ModelError
from edgefuse_devices.profile import DeviceProfile
from edgefuse_export.module import Loss
from edgefuse_export.quiet import quiet

_BYTES = 4
_MOMENTS = 2


class WayPlan(Struct, frozen=True, kw_only=True):
    """A row of the plan.

    Attributes:
        way: What `--tune` calls it.
        summary: What trains.
        possible: Whether the model can be tuned so.
        trained_parameters: Count of elements that get a gradient.
        gradient_bytes: Of their gradients.
        optimizer_bytes: Of AdamW's two moments.
        flops: Multiplications and additions of a step's matrix products, forward and backward.
        reason: Why the model cannot be tuned so, and what to do instead.
    """

    way: str
    summary: str
    possible: bool = True
    trained_parameters: int = 0
    gradient_bytes: int = 0
    optimizer_bytes: int = 0
    flops: int = 0
    reason: str = ""


class Plan(Struct, frozen=True, kw_only=True):
    """Every way for a model.

    Attributes:
        model: What was given.
        device: The board.
        parameters: Count of the model's own.
        batch_size: Rows in a step.
        sequence_length: Tokens in a row.
        ways: A row for each.
    """

    model: str
    device: str
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
) -> Plan:
    """Say what every way of tuning would cost a model.

    Args:
        model: A compressed model's directory, a plain model's, or a hub name.
        device: The board.
        classes: How many the head tells apart, where the model brings none.
        batch_size: Rows in a step.
        sequence_length: Tokens in a row; None for 128 or what the model takes.
        revision: Branch, tag or commit on the hub.

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
        parameters=classifier.num_parameters(),
        batch_size=batch_size,
        sequence_length=length,
        ways=plan_ways(classifier, batch_size=batch_size, sequence_length=length),
    )


def plan_ways(model: PreTrainedModel, *, batch_size: int, sequence_length: int) -> list[WayPlan]:
    """Count, for every way with its own options, with shapes alone: nothing is computed.

    Args:
        model: A classifier with eager attention. It is not changed.
        batch_size: Rows in a step.
        sequence_length: Tokens in a row; fewer where a way's prefixes leave fewer positions.
    """
    shape = batch_size, sequence_length
    return [_plan(model, way, shape) for way in (kind() for kind in WAYS)]


def _plan(original: PreTrainedModel, way: Way, shape: tuple[int, int]) -> WayPlan:
    model = with_tensors(original, lambda tensor: tensor.to("meta"))
    try:
        prepared = way.prepare(model)
        rows, longest = shape[0], longest_sequence(original) - prepared.positions
        flops = step_flops(model, (rows, choose_length(min(shape[1], longest), longest)))
    except InputError as error:
        return WayPlan(way=way.name, summary=way.summary, possible=False, reason=str(error))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return WayPlan(
        way=way.name,
        summary=way.summary,
        trained_parameters=trained,
        gradient_bytes=trained * _BYTES,
        optimizer_bytes=trained * _BYTES * _MOMENTS,
        flops=flops,
    )


def step_flops(model: PreTrainedModel, shape: tuple[int, int]) -> int:
    """Multiplications and additions of a step's matrix products, forward and backward.

    Args:
        model: What of it requires a gradient gets one; it may be on the meta device.
        shape: (batch, sequence).

    Raises:
        ModelError: What the model computes depends on numbers, as the choice of experts does.
    """
    # On the meta device proper, transformers would ask whether a mask masks anything.
    with quiet(), FakeTensorMode(allow_non_fake_inputs=True):
        fake = with_tensors(model, lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype))
        input_ids = torch.ones(shape, dtype=torch.int64)
        labels = torch.zeros(shape[0], dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            try:
                loss, _ = Loss(fake)(input_ids, torch.ones_like(input_ids), labels)
                loss.backward()
            except (RuntimeError, NotImplementedError) as error:
                raise ModelError(
                    f"A step of {type(model).__name__} cannot be counted without computing it: "
                    f"{str(error).splitlines()[0]}",
                    "Choose by trained parameters",
                ) from error
    return int(counter.get_total_flops())
