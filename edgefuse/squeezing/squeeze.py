"""Dimension squeezing: bonds are cut and the model trained, in turn, until it loses too much.

After Algorithm 1 of Liu et al. (ACL 2021, arXiv 2106.02205), with three differences. There every
single truncation, of one bond by one, is followed by fine-tuning; MiniLM's 37 chains have 12,000 of
them. Here a round cuts a tenth of the parameters, one direction at a time, and trains if too much
was lost. What goes is what the task needs least (`importance.py`), not what has the smallest
singular values. And the first round that loses too much all the same is taken back, and every cut
from then on is half as large.

A round is a function of the last model that was kept and of the record, and starts with a new
optimizer: nothing else is needed to go on.
"""

import shlex
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch
from transformers import PreTrainedModel

from edgefuse.artifact.load import load
from edgefuse.artifact.record import CompressionRecord, read_record
from edgefuse.bundling.length import choose_length, longest_sequence
from edgefuse.bundling.load import auto_class, facts_of, set_padding
from edgefuse.hub.device import computing_on, fastest, move
from edgefuse.hub.model import empty_model, load_config
from edgefuse.hub.source import ModelSource, find_source
from edgefuse.hub.tokenizer import load_padding_tokenizer
from edgefuse.squeezing.record import SqueezeRecord, SqueezeSettings
from edgefuse.squeezing.rounds import Job, cut, evaluate_and_train
from edgefuse.squeezing.workspace import Workspace
from edgefuse_devices.errors import ModelError
from edgefuse_export.tasks.task import ExportTask, WantedTask
from edgefuse_runtime.bundle.bundle import digest
from edgefuse_runtime.data.batching import kept
from edgefuse_runtime.progress import OnProgress, silent


def squeeze(
    model: str,
    output: Path,
    *,
    task: WantedTask,
    train_file: Path,
    valid_file: Path,
    settings: SqueezeSettings,
    resume: bool = False,
    overwrite: bool = False,
    on_progress: OnProgress = silent,
    stop: Callable[[], bool] = lambda: False,
) -> SqueezeRecord:
    """Squeeze the chains of a model as far as its task allows.

    While it works, OUTPUT.squeezing beside the output holds the last round within the gap. A killed
    one resumes there, and gives what it would have given.

    Args:
        model: A directory that `compress --method mpo` made.
        output: The compressed model directory to make, with a trained head.
        task: What the model is for; labels that it does not name are those of the rows.
        train_file: Rows to train on.
        valid_file: Rows to measure on.
        settings: How to squeeze.
        resume: Go on with what OUTPUT.squeezing holds.
        overwrite: Replace the output, and an earlier attempt.
        on_progress: Called after every batch.
        stop: Called after every batch; True raises `Interrupted`.

    Returns:
        The record of all rounds.

    Raises:
        InputError: The model, the data or the output do not hold.
        RunError: What is to be resumed was begun otherwise.
        Interrupted: `stop` returned True.
    """
    source = find_source(model)
    compression = _chains_of(source, model)
    config = load_config(source)
    tokenizer = load_padding_tokenizer(source, split_words=task.splits_words)
    facts = facts_of(source, config, model, tokenizer)
    export_task = task.of_rows(train_file).of_model(facts)
    length = choose_length(None, longest_sequence(empty_model(config)))
    task.check_length(length)
    train, valid = (
        kept(export_task.task.read(file, tokenizer.limited(length)))
        for file in (train_file, valid_file)
    )
    job = Job(settings, export_task, train, valid, on_progress, stop)
    begun = SqueezeRecord(
        source=source.label,
        chains=[digest(file) for file in sorted(Path(source.name).glob("*.safetensors"))],
        parameters_before=compression.parameters_before,
        settings=settings,
        train=digest(train_file),
        valid=digest(valid_file),
        task=msgspec.to_builtins(export_task.task),
    )
    workspace = Workspace.beside(output, overwrite=overwrite)
    record = workspace.resume(begun) if resume else workspace.begin(begun)
    if workspace.has_ended:
        return record
    with computing_on(fastest()):
        while record.goes_on:
            last = workspace.model_of(record) if record.rounds else Path(source.name)
            classifier = _load(last, export_task, settings.seed, tokenizer.padding_id)
            if record.rounds and not cut(job, record, classifier):
                break
            reached = evaluate_and_train(job, record, classifier)
            record = workspace.save(record, reached, classifier, tokenizer, _record_of(last))
    workspace.finish(record, source)
    return record


def _chains_of(source: ModelSource, model: str) -> CompressionRecord:
    """The record of a model whose bonds can be cut.

    Raises:
        ModelError: It has no chains, or some that share tensors.
    """
    compression = read_record(Path(source.name))
    if compression is None or not compression.matrices:
        raise ModelError(
            f"{model} has no matrix product operators, whose bonds could be cut",
            f"Make them first: edgefuse compress {shlex.quote(model)} OUTPUT --method mpo "
            "--max-error 0",
        )
    if any(matrix.shares_central_of for matrix in compression.matrices):
        raise ModelError(
            f"Experts of {model} share central tensors, and their bonds cannot be cut one by one",
            "Decompose it without --share-central, or with a lower --bond",
        )
    return compression


def _record_of(directory: Path) -> CompressionRecord:
    record = read_record(directory)
    assert record is not None
    return record


def _load(directory: Path, task: ExportTask, seed: int, padding_id: int | None) -> PreTrainedModel:
    torch.manual_seed(seed)  # of a head that the model lacks
    model = load(
        find_source(str(directory)),
        auto_class(task.task),
        needs_head=task.needs_head,
        **task.model_options(),
    )
    set_padding(model, padding_id)
    move(model, fastest())
    return model
