"""`edgefuse compress` as plain functions: plan, then do."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import PretrainedConfig, PreTrainedModel

from edgefuse.artifact.record import RECORD, CompressionRecord, LayerRecord, read_record
from edgefuse.artifact.save import (
    PLAIN_WEIGHTS,
    TRAINED_WEIGHTS,
    save_compressed,
    save_description,
)
from edgefuse.artifact.widths import even_widths
from edgefuse.compression.allocation import check_allocation
from edgefuse.compression.calibration import Texts, split_texts
from edgefuse.compression.fusion import fuse_model
from edgefuse.compression.methods import METHODS, Method
from edgefuse.compression.plan import LayerPlan, plan_layers
from edgefuse.compression.recipe import Recipe
from edgefuse.compression.streaming import fuse_stored, open_stored
from edgefuse.hub.device import computing_on, fastest, move
from edgefuse.hub.model import empty_model, load_config, load_model
from edgefuse.hub.source import ModelSource, find_source
from edgefuse.hub.tokenizer import load_tokenizer
from edgefuse.mlps.mlp import MLP, find_mlps, unknown_experts
from edgefuse.mlps.verify import verify, verify_without_weights
from edgefuse_devices.errors import DataError, InputError, ModelError
from edgefuse_devices.probe import probe
from edgefuse_runtime.data.texts import read_texts
from edgefuse_runtime.files.output import new_directory
from edgefuse_runtime.progress import OnProgress, silent

_BYTES_BESIDE_WEIGHTS = 20_000_000


@dataclass(frozen=True)
class CompressionPlan:
    """What a compression would do, known from the configuration alone.

    Attributes:
        source: The model.
        config: Its configuration.
        empty: It, without weights.
        method: One of `edgefuse.compression.methods`.
        layers: Each block to fuse, bottom first, and the width that the method is given for it.
        outcome: What becomes of them: the same, but for a method that keeps the width.
        even: Afterwards all MLPs share one width, so that plain transformers loads the result.
        parameters_before: Elements of all parameters of the model.
        parameters_after: The same, fused.
        left_out: Names of modules with experts that are built in no way EdgeFuse knows, and stay.
    """

    source: ModelSource
    config: PretrainedConfig
    empty: PreTrainedModel = field(repr=False, compare=False)
    method: Method
    layers: tuple[LayerPlan, ...]
    outcome: tuple[LayerPlan, ...]
    even: bool
    parameters_before: int
    parameters_after: int
    left_out: tuple[str, ...] = ()


def plan_compression(
    model: str,
    *,
    method: Method = METHODS[0],
    ratio: float | None = None,
    width: int | None = None,
    layers: str | None = None,
    revision: str | None = None,
) -> CompressionPlan:
    """Plan a compression. Reads the configuration, not the weights.

    Args:
        model: A directory or a hub name.
        method: One of `edgefuse.compression.methods`.
        ratio: Part of each MLP's width to keep; without `ratio` and `width` a quarter.
        width: The width to keep, instead of `ratio`.
        layers: Such as `4-11` or `0,2,5-7`; None for all.
        revision: Branch, tag or commit on the hub.

    Raises:
        InputError: The model, the width or the layers do not hold, or the method does not suit
            them; the message says why.
    """
    source = find_source(model, revision)
    if read_record(Path(source.name)) is not None:
        raise ModelError(
            f"{model} is compressed already", "Start from the model that it was made from"
        )
    config = load_config(source)
    empty = empty_model(config)
    blocks = find_mlps(empty)
    planned = plan_layers(blocks, ratio=ratio, width=width, layers=layers)
    chosen = _chosen(empty, planned)
    method.check(chosen, [layer.width_after for layer in planned])
    outcome = tuple(map(method.outcome, chosen, planned))
    before = empty.num_parameters()
    return CompressionPlan(
        source=source,
        config=config,
        empty=empty,
        method=method,
        layers=planned,
        outcome=outcome,
        even=_is_even(empty, outcome),
        parameters_before=before,
        parameters_after=before
        - sum(layer.parameters_before - layer.parameters_after for layer in outcome),
        left_out=tuple(unknown_experts(empty, blocks)),
    )


def check_compression(
    plan: CompressionPlan,
    *,
    calibration: Path | None = None,
    refit: bool | None = None,
    tune_text: Path | None = None,
    allocation: str = "even",
) -> tuple[Texts | None, list[str]]:
    """Refuse what `compress` would refuse before it reads weights; the arguments are its.

    Returns:
        The text to look at, and that of the tuning stage if it has its own.

    Raises:
        InputError: The options, the model or the text do not hold.
    """
    has_text = calibration is not None or tune_text is not None
    check_allocation(allocation, has_text=has_text)
    if refit and not has_text:
        raise InputError("A refit needs text to fit to", "Give --calibration a file of texts")
    if plan.method.needs_text and not has_text:
        raise InputError(
            f"The method {plan.method.name} needs text to see which neurons are active",
            "Give --calibration a file of example texts, or choose another --method",
        )
    if has_text:
        _check_memory(plan)
    return _read(calibration, tune_text)


def compress(
    plan: CompressionPlan,
    output: Path,
    *,
    seed: int = 0,
    calibration: Path | None = None,
    refit: bool | None = None,
    tune_text: Path | None = None,
    allocation: str = "even",
    overwrite: bool = False,
    on_progress: OnProgress = silent,
) -> CompressionRecord:
    """Fuse a model and write it as a compressed model directory, whole or not at all.

    Args:
        plan: From `plan_compression`.
        output: The directory to make.
        seed: Same seed, same machine: same bytes.
        calibration: Text for the method and the refit to look at, JSONL with `text` or .txt;
            errors are measured on every tenth, which they do not see.
        refit: Fit each output to the original's; None for as the method does.
        tune_text: Text for the tuning stage; it stands in for `calibration` too.
        allocation: One of `ALLOCATIONS`: the plan's widths, or others that make as many parameters,
            by what the text shows of each layer.
        overwrite: Replace a compressed model that is there.
        on_progress: Called after each step of a stage.

    Returns:
        What edgefuse.json holds.

    Raises:
        InputError: The method, the model, the calibration text or the output folder do not hold.
    """
    texts, tune_texts = check_compression(
        plan,
        calibration=calibration,
        refit=refit,
        tune_text=tune_text,
        allocation=allocation,
    )
    method = plan.method
    recipe = Recipe(
        method=method,
        refits=texts is not None and (method.refits if refit is None else refit),
        tunes=tune_text is not None,
        seed=seed,
        allocates=allocation == "sensitivity",
    )
    needed = plan.parameters_after * 4 + _BYTES_BESIDE_WEIGHTS
    with new_directory(output, marker=RECORD, overwrite=overwrite, needed_bytes=needed) as folder:
        tokenizer = load_tokenizer(plan.source)
        stored = open_stored(plan.source, plan.config) if texts is None else None
        if stored is not None:
            model, folded = stored.model, all(layer.kind == "fused" for layer in plan.outcome)
            weights = folder / (PLAIN_WEIGHTS if folded else TRAINED_WEIGHTS)
            verify_without_weights(model, _chosen(model, plan.layers))
            layers = fuse_stored(stored, plan.layers, recipe, weights, on_progress=on_progress)
        else:
            if texts is None:  # no safetensors to read an MLP at a time
                _check_memory(plan)
            torch.manual_seed(seed)  # a pooler that the source lacks is made up the same each time
            model = load_model(plan.source, plan.config)
            device = fastest()
            with computing_on(device):
                move(model, device)
                verify(model, _chosen(model, plan.layers))
                layers = fuse_model(
                    model,
                    plan.layers,
                    recipe,
                    tokenizer=tokenizer,
                    texts=texts,
                    tune_texts=tune_texts,
                    on_progress=on_progress,
                )
        record = CompressionRecord(
            method=method.name,
            paper=method.paper,
            source=plan.source.label,
            revision=plan.source.revision,
            architecture=type(model).__name__,
            seed=seed,
            even=_is_even(plan.empty, layers),
            parameters_before=plan.parameters_before,
            parameters_after=plan.parameters_before
            - sum(layer.parameters_before - layer.parameters_after for layer in layers),
            allocation=allocation,
            refitted=recipe.refits,
            tuned=recipe.tunes,
            calibration_texts=len(texts.seen) if texts else 0,
            held_out_texts=len(texts.held_out) if texts else 0,
            layers=list(layers),
        )
        if stored is not None:
            save_description(folder, model, tokenizer, record)
        else:
            move(model, torch.device("cpu"))
            save_compressed(folder, model, tokenizer, record)
    return record


def _check_memory(plan: CompressionPlan) -> None:
    """Refuse a model whose weights alone are more than the machine can hold."""
    needed, there = plan.parameters_before * 4 / 2**30, probe().memory_mib / 2**10
    if needed > there:
        raise ModelError(
            f"{plan.source.label} has {needed:.1f} GiB of weights in float32, and this machine "
            f"{there:.1f} GiB of memory",
            "Compress it without text, from safetensors files: those are read an MLP at a time",
        )


def _read(calibration: Path | None, tune_text: Path | None) -> tuple[Texts | None, list[str]]:
    """What is held out of the one is not in the other either."""
    file = calibration or tune_text
    if file is None:
        return None, []
    texts = split_texts(read_texts(file))
    if tune_text is None or tune_text == file:
        return texts, []
    held_out = set(texts.held_out)
    tune_texts = [text for text in read_texts(tune_text) if text not in held_out]
    if not tune_texts:
        raise DataError(
            f"Every text of {tune_text} is also in {file}, held out to measure errors on",
            "Give other texts to --tune-text, or the same file to both",
        )
    return texts, tune_texts


def _chosen(model: PreTrainedModel, layers: Sequence[LayerPlan]) -> list[MLP]:
    names = {layer.name for layer in layers}
    return [mlp for mlp in find_mlps(model) if mlp.name in names]


def _is_even(empty: PreTrainedModel, layers: Sequence[LayerPlan | LayerRecord]) -> bool:
    """Whether the configuration can say all widths."""
    after = {layer.name: layer.width_after for layer in layers}
    mlps = find_mlps(empty)
    widths = [after.get(mlp.name, mlp.width) for mlp in mlps]
    return even_widths(empty, widths) is not None
