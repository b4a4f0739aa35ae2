"""A model that was loaded is made ready for export: what trains is chosen, and the sizes are."""

from dataclasses import dataclass

from transformers import PreTrainedModel

from edgefuse.bundling.chains import merge_chains_too, plain_form
from edgefuse.bundling.context import context_of_task
from edgefuse.bundling.description import describe
from edgefuse.bundling.fused import fused_mlps
from edgefuse.bundling.length import choose_length, longest_sequence
from edgefuse.bundling.load import Loaded
from edgefuse.bundling.source import Origin
from edgefuse.layers.chains.modules import expect_batches
from edgefuse.tuning.prepare import prepare
from edgefuse.tuning.way import Prepared, Way
from edgefuse_export.fused_mlp import FusedMLP
from edgefuse_export.tasks.task import WantedTask
from edgefuse_export.without_gradient import freeze_without_gradient
from edgefuse_runtime.bundle.manifest import ModelInfo


@dataclass(frozen=True)
class Ready:
    """A model that is ready for export.

    Attributes:
        model: The model, whose parameters that require a gradient train.
        info: What the manifest keeps of it.
        fused: The model's fused blocks.
        prepared: What the way of tuning made of it.
        sequence_length: Count of tokens that texts are cut to.
        without_gradient: Names of the parameters that the way would train and that the loss does
            not depend on; they do not train.
    """

    model: PreTrainedModel
    info: ModelInfo
    fused: list[FusedMLP]
    prepared: Prepared
    sequence_length: int
    without_gradient: list[str]


def make_ready(
    origin: Origin,
    wanted: WantedTask,
    loaded: Loaded,
    way: Way,
    *,
    rows: int,
    sequence_length: int | None,
) -> Ready:
    """Prepare a model for training one way.

    Args:
        origin: What the model was loaded from.
        wanted: The task as a user asked for it.
        loaded: The model, which is changed, and its tokenizer.
        way: What trains.
        rows: Count of rows in a batch at most.
        sequence_length: Count of tokens that texts are cut to; None for 128 or what the model
            takes.

    Raises:
        InputError: The model cannot be tuned this way, or it or the task does not take the length.
    """
    plain = plain_form(loaded.model)
    info = describe(origin, plain, parameters=loaded.model.num_parameters())
    fused = fused_mlps(plain)
    longest = longest_sequence(loaded.model)
    length = choose_length(sequence_length, longest)
    wanted.check_length(length)
    context = context_of_task(loaded.task, loaded.tokenizer, length=length)
    model, prepared = prepare(way, loaded.model, context, origin.adapter)
    prepared = merge_chains_too(model, prepared)
    length = choose_length(sequence_length, longest, prefix=prepared.positions)
    wanted.check_length(length)
    expect_batches(model, rows * length)
    unused = freeze_without_gradient(loaded.task, model, vocabulary=model.config.vocab_size)
    return Ready(model, info, fused, prepared.without(unused), length, unused)
