"""A model is prepared for training one way, perhaps from a peft adapter that it comes with."""

from dataclasses import replace

from transformers import PreTrainedModel

from edgefuse.hub.peft_adapter import PeftAdapter
from edgefuse.tuning.low_rank import merge_peft_adapter
from edgefuse.tuning.way import Context, Prepared, Way
from edgefuse.tuning.ways import WAYS
from edgefuse_devices.errors import InputError, ModelError

_MERGED = "LORA"
"""The kind of adapter that a model's weights can take up."""


def prepare(
    way: Way, model: PreTrainedModel, context: Context, adapter: PeftAdapter | None = None
) -> tuple[PreTrainedModel, Prepared]:
    """Prepare a model for training one way.

    A way goes on with a peft adapter of its own kind; for another way, the adapter is merged into
    the model.

    Args:
        way: What trains.
        model: The base. It is changed, or of no use afterwards.
        context: What the way may look at.
        adapter: The peft adapter to begin from, if there is one.

    Returns:
        The model that trains, and what the way made of it.

    Raises:
        ModelError: The model cannot be tuned this way, or not from this adapter.
        InputError: An option of the way does not hold.
    """
    if adapter is None:
        return model, way.prepare(model, context)
    if way.goes_on_from == adapter.kind:
        if way != type(way)():
            raise InputError(
                f"{adapter.path} says its own --{way.family}-… options",
                "Leave them out, or begin from the model without the adapter",
            )
        return model, way.prepare(model, replace(context, peft_adapter=adapter.path))
    if adapter.kind != _MERGED:
        raise _refusal(adapter)
    merged = merge_peft_adapter(model, adapter.path, context.task_type)
    # What is trained on it is no adapter of the base, which peft would put it onto.
    return merged, replace(way.prepare(merged, context), peft=None)


def _refusal(adapter: PeftAdapter) -> ModelError:
    """Why a way does not begin from an adapter that cannot be merged."""
    goes_on = {way.goes_on_from: way.title for way in WAYS if way.goes_on_from}
    if adapter.kind in goes_on:
        return ModelError(
            f"{adapter.path} is an adapter of kind {adapter.kind.value}, which no weights can take "
            "up",
            f"Go on with --tune {goes_on[adapter.kind]}, or begin from the model without the "
            "adapter",
        )
    return ModelError(
        f"{adapter.path} is an adapter of kind {adapter.kind.value}, and export begins from "
        f"{' or '.join(goes_on)}",
        "Merge it into its model with peft's `merge_and_unload`, if its kind can be, and export "
        "that",
    )
