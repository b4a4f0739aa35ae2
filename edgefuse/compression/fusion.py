"""Fuse the MLPs of a model that is in memory."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from edgefuse.artifact.record import LayerRecord
from edgefuse.compression.allocation import allocate
from edgefuse.compression.calibration import (
    Texts,
    batches_of,
    collect_inputs,
    inputs_to_fit,
)
from edgefuse.compression.distillation import distill
from edgefuse.compression.distillation_settings import settings_of
from edgefuse.compression.effect import measure_effects
from edgefuse.compression.fidelity import Fidelity, measure_fidelity
from edgefuse.compression.plan import LayerPlan
from edgefuse.compression.progress import FUSING, MEASURING
from edgefuse.compression.recipe import Recipe
from edgefuse.compression.reduction import check_fit
from edgefuse.hub.tokenizer import ModelTokenizer
from edgefuse.mlps.install import install
from edgefuse.mlps.low_rank import LowRank, Replacement, install_low_rank
from edgefuse.mlps.mlp import MLP, find_mlps
from edgefuse.mlps.neurons import FusedNeurons, Layer
from edgefuse_runtime.progress import OnProgress, silent

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from edgefuse.compression.kept_inputs import KeptInputs

_BATCHES = 16  # on which a layer's effect on the whole is measured


def fuse_model(
    model: "PreTrainedModel",
    layers: Sequence[LayerPlan],
    recipe: Recipe,
    *,
    tokenizer: ModelTokenizer | None = None,
    texts: Texts | None = None,
    tune_texts: Sequence[str] = (),
    on_progress: OnProgress = silent,
) -> tuple[LayerRecord, ...]:
    """Fuse MLPs in place, P standalone.

    Args:
        model: Unfused, float32, in evaluation mode.
        layers: What `plan_layers` made for this model; where the recipe shares widths out anew,
            the budget.
        recipe: What is done to each MLP.
        tokenizer: The model's; needed with texts.
        texts: For the stages that look at text, and for the errors.
        tune_texts: Text for the teaching stages, if not `texts.seen`.
        on_progress: Called after each step of a stage.

    Returns:
        A record for every fused MLP.

    Raises:
        InputError: The method does not suit an MLP, or the text does not suffice.
    """
    found = {mlp.name: mlp for mlp in find_mlps(model)}
    mlps = [found[plan.name] for plan in layers]
    seen: KeptInputs | None = None
    held_out: KeptInputs | None = None
    taught: KeptInputs | None = None
    if texts is not None:
        assert tokenizer is not None
        # What a layer may be given when widths are shared out is known only then.
        most = [p.width_before if recipe.allocates else p.width_after for p in layers]
        fits_seen = recipe.refits or (recipe.teaches and not tune_texts)
        fitted = most if fits_seen else []
        collect = partial(collect_inputs, model, tokenizer, mlps, on_progress=on_progress)
        seen = collect(texts.seen, widths=fitted)
        held_out = collect(texts.held_out, held_out=True)
        if tune_texts:
            taught = collect(tune_texts, widths=most)
        if recipe.allocates:
            few = list(islice(batches_of(model, tokenizer, texts.seen), _BATCHES))
            effects = measure_effects(model, mlps, seen, layers, few)
            layers = allocate(mlps, seen, layers, effects)
    widths = [plan.width_after for plan in layers]
    check_fit(recipe.method, mlps, widths)
    if texts is not None and seen is not None and fits_seen:
        seen = inputs_to_fit(seen, mlps, widths, len(texts.seen))
    if taught is not None:
        taught = inputs_to_fit(taught, mlps, widths, len(tune_texts), called="teaching")

    def view(index: int) -> Layer:
        return replace(mlps[index].layer_view(), inputs=None if seen is None else seen[index])

    settings = settings_of(model)
    reduced = []
    for index, width in enumerate(widths):
        inputs = None if taught is None else taught[index]
        reduced.append(recipe.reduce(view(index), width, teaching_inputs=inputs, settings=settings))
        on_progress(FUSING, index + 1, len(mlps))
    if recipe.teaches:
        assert tokenizer is not None
        assert texts is not None
        read = tune_texts or texts.seen
        reduced = distill(
            model,
            tokenizer,
            mlps,
            reduced,
            read,
            settings=settings,
            seed=recipe.seed,
            on_progress=on_progress,
        )
    records = []
    for index, plan in enumerate(layers):
        layer = view(index)
        one = reduced[index] = recipe.match(layer, reduced[index])
        fidelity = None if held_out is None else measure_fidelity(layer, one, held_out[index])
        records.append(layer_record(plan, layer.bias, one, fidelity))
        on_progress(MEASURING, index + 1, len(mlps))
    _install(mlps, reduced)
    return tuple(records)


def _install(mlps: Sequence[MLP], reduced: Sequence[Replacement]) -> None:
    fused = [one for one in reduced if isinstance(one, FusedNeurons)]
    low_rank = [one for one in reduced if isinstance(one, LowRank)]
    assert not (fused and low_rank), "one method gives one kind"
    if fused:
        install(mlps, fused)
    else:
        install_low_rank(mlps, low_rank)


def layer_record(
    plan: LayerPlan,
    bias: "Tensor | None",
    one: Replacement,
    fidelity: Fidelity | None = None,
) -> LayerRecord:
    """Record what became of an MLP, whose own b2 is `bias` (p,)."""
    errors = vars(fidelity) if fidelity else {}
    if isinstance(one, FusedNeurons):
        return LayerRecord(**vars(plan), multiplicities=one.multiplicity.tolist(), **errors)
    planned = vars(plan) | {
        "kind": "low-rank",
        "width_after": plan.width_before,
        "parameters_after": sum(t.numel() for t in one.parameters(bias).values()),
    }
    return LayerRecord(**planned, rank=one.rank, **errors)
