"""`edgefuse export` as a plain function: load, choose what trains, write the bundle."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from optimum.exporters.tasks import TasksManager
from peft import PeftConfig
from transformers import PreTrainedModel

from edgefuse.artifact.record import CompressionRecord, read_record
from edgefuse.bundling.chains import merge_chains_too, plain_form
from edgefuse.bundling.classifier import (
    check_architecture,
    check_head,
    choose_length,
    labels_of_head,
    load_with_head,
    longest_sequence,
)
from edgefuse.bundling.context import context_of_task
from edgefuse.bundling.fused import fused_mlps
from edgefuse.hub.adapter import find_adapter
from edgefuse.hub.model import embedding_rows, empty_model, load_config
from edgefuse.hub.silence import silence_transformers
from edgefuse.hub.source import ModelSource, find_source
from edgefuse.hub.tokenizer import ModelTokenizer, load_padding_tokenizer
from edgefuse.layers.chains.modules import expect_batches
from edgefuse.layers.low_rank import LowRankLinear
from edgefuse.layers.separate_experts import Experts
from edgefuse.mlps.mlp import find_mlps
from edgefuse.tuning.prepare import prepare
from edgefuse.tuning.way import Prepared, Way
from edgefuse.tuning.ways import find_way
from edgefuse_devices.errors import InputError, ModelError
from edgefuse_devices.profile import DeviceProfile
from edgefuse_export.engines.registry import ENGINE_EXPORTS
from edgefuse_export.tasks.registry import EXPORT_TASKS, export_task
from edgefuse_export.writer import BATCH_SIZES, Request, write_bundle
from edgefuse_runtime.bundle.bundle import MANIFEST, PEFT_CONFIG, Bundle
from edgefuse_runtime.bundle.manifest import ModelInfo
from edgefuse_runtime.engines.engine import EngineSpec
from edgefuse_runtime.files.output import check_replaceable, new_directory
from edgefuse_runtime.optimizers.adamw import AdamW
from edgefuse_runtime.optimizers.optimizer import Optimizer
from edgefuse_runtime.progress import OnProgress, silent
from edgefuse_runtime.tasks.text_classification import TextClassification

_BYTES_BESIDE_WEIGHTS = 20_000_000


def check_task(task: str) -> None:
    """Refuse a task that cannot be exported.

    Args:
        task: A task's name or synonym, as optimum knows them.

    Raises:
        InputError: It is none of `EXPORT_TASKS`.
    """
    if TasksManager.map_from_synonym(task) not in EXPORT_TASKS:
        known = " or ".join(EXPORT_TASKS)
        raise InputError(f"--task {task} cannot be exported", f"The task is {known} so far")


def export(
    model: str,
    output: Path,
    *,
    device: DeviceProfile,
    labels: Sequence[str],
    tune: str | Way = "full",
    batch_size: int | None = None,
    sequence_length: int | None = None,
    optimizer: Optimizer | None = None,
    engine: str = "onnxruntime",
    seed: int = 0,
    revision: str | None = None,
    overwrite: bool = False,
    on_progress: OnProgress = silent,
) -> Bundle:
    """Export a text classifier as a bundle, whole or not at all.

    Args:
        model: A compressed model's directory, a plain model's, a LoRA adapter's that peft saved,
            or a hub name.
        output: The directory to make.
        device: The board.
        labels: Names of the classes, in the order of the logits; a head that knows the same names
            keeps its own.
        tune: A way of tuning, or the name of one with its own options.
        batch_size: Rows in a batch; None for what the board's memory takes.
        sequence_length: Longest sequence, in tokens; None for 128 or what the model takes.
        optimizer: The optimizer; None for AdamW.
        engine: Name of the engine whose graphs to write.
        seed: Seed of a head that the model lacks.
        revision: Branch, tag or commit on the hub.
        overwrite: Replace a bundle that is there.
        on_progress: Observer, called before each stage.

    Raises:
        InputError: The model, the way of tuning, the sizes or the output do not hold.
        InternalError: A graph does not compute what torch computes.
    """
    optimizer = optimizer or AdamW()
    _check_request(output, optimizer, seed, overwrite=overwrite)
    way = find_way(tune) if isinstance(tune, str) else tune
    adapter = find_adapter(model)
    if adapter and revision is not None:
        raise InputError(
            f"{model} is an adapter, which names its base's revision itself",
            "Leave --revision out, or write the revision into adapter_config.json",
        )
    source = adapter.base if adapter else find_source(model, revision)
    config = load_config(source)
    check_architecture(config, model)
    check_head(config, labels, model)
    labels = labels_of_head(config, labels)
    task = export_task(TextClassification(labels=labels))
    tokenizer = load_padding_tokenizer(source)
    padding_id = tokenizer.padding_id
    assert padding_id is not None
    torch.manual_seed(seed)
    classifier = load_with_head(source, task, padding_id=padding_id)
    _check_token_ids(classifier, tokenizer, model)
    plain = plain_form(classifier)
    fused = fused_mlps(plain)
    widths = _widths(plain)
    parameters = classifier.num_parameters()
    longest = longest_sequence(classifier)
    context = context_of_task(task, tokenizer, length=choose_length(sequence_length, longest))
    classifier, prepared = prepare(way, classifier, context, adapter)
    prepared = merge_chains_too(classifier, prepared)
    engine_export = ENGINE_EXPORTS[engine]
    _check_engine(engine_export.spec(), prepared, optimizer)
    length = choose_length(sequence_length, longest, prefix=prepared.positions)
    expect_batches(classifier, (batch_size or BATCH_SIZES[0]) * length)
    record = read_record(Path(source.name))
    info = ModelInfo(
        source=adapter.path.resolve().name if adapter else source.label,
        architecture=config.model_type,
        parameters=parameters,
        intermediate_sizes=widths,
        compression=record.method if record else None,
        not_plain=_not_plain(plain, record, widths),
    )
    request = Request(
        task=task,
        model=classifier,
        info=info,
        fused=fused,
        tuning=way.name,
        learning_rate=way.learning_rate,
        inference=prepared.inference,
        merges=prepared.merges,
        rates=prepared.rates,
        mask=prepared.mask,
        kept=prepared.kept,
        optimizer=optimizer,
        padding_id=padding_id,
        vocabulary=config.vocab_size,
        batch_size=batch_size,
        sequence_length=length,
        device=device,
        engine=engine_export,
    )
    needed = 2 * parameters * 4 + _BYTES_BESIDE_WEIGHTS
    with new_directory(output, marker=MANIFEST, overwrite=overwrite, needed_bytes=needed) as folder:
        tokenizer.save_backend(folder, length=length)
        classifier.config.architectures = [type(classifier).__name__]  # no longer the source's
        with silence_transformers():
            classifier.config.save_pretrained(folder / "model")
            tokenizer.save(folder / "model")
            if prepared.peft:
                _save_peft_config(prepared.peft, source, folder / PEFT_CONFIG)
        bundle = write_bundle(request, folder, on_progress=on_progress)
    return Bundle(output, bundle.manifest, bundle.id)


def _check_request(output: Path, optimizer: Optimizer, seed: int, *, overwrite: bool) -> None:
    """What can be refused before all the work."""
    check_replaceable(output, MANIFEST, overwrite=overwrite)
    for name in ("weight_decay", "max_gradient_norm"):
        value = getattr(optimizer, name, 0.0)
        if not 0 <= value < math.inf:  # which a manifest could not hold
            raise InputError(f"--{name.replace('_', '-')} is {value}", "0 turns it off")
    if not 0 <= seed < 1 << 63:
        raise InputError(f"--seed is {seed}", "Give a number from 0 to 2⁶³ - 1")


def _save_peft_config(config: PeftConfig, base: ModelSource, file: Path) -> None:
    config.base_model_name_or_path = base.label
    config.revision = base.revision
    config.inference_mode = True
    config.save_pretrained(str(file.parent))


def _check_engine(engine: EngineSpec, prepared: Prepared, optimizer: Optimizer) -> None:
    refusal = engine.refusal(rates=prepared.rates.values(), mask=prepared.mask, optimizer=optimizer)
    if refusal:
        raise InputError(refusal, "Export with --engine onnxruntime, or train otherwise")


def _widths(model: PreTrainedModel) -> list[int]:
    """Of all MLPs; a low-rank one's is what the configuration says, for it stays."""
    if any(isinstance(module, LowRankLinear) for module in model.modules()):
        return [mlp.width for mlp in find_mlps(empty_model(model.config))]
    return [mlp.width for mlp in find_mlps(model)]


def _not_plain(
    model: PreTrainedModel, record: CompressionRecord | None, widths: Sequence[int]
) -> str:
    if record is not None and not record.even:
        sizes = ", ".join(map(str, sorted({*widths})))
        return f"has one width for all MLPs, and this model has {sizes}"
    if any(isinstance(module, Experts) for module in model.modules()):
        return "has experts in one stack, and this model's are apart"
    return ""


def _check_token_ids(model: PreTrainedModel, tokenizer: ModelTokenizer, name: str) -> None:
    """On the board an id without an embedding would end the run, or read another row."""
    rows = embedding_rows(model)
    highest = tokenizer.highest_id
    if highest >= rows:
        raise ModelError(
            f"The tokenizer of {name} has token ids up to {highest}, and the model embeds {rows}",
            "Save it with its own tokenizer, or after `model.resize_token_embeddings(len(…))`",
        )
