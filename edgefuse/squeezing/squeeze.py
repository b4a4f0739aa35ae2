"""Dimension squeezing: bonds are cut and the model trained, in turn, until it loses too much.

After Algorithm 1 of Liu et al. (ACL 2021, arXiv 2106.02205), with three differences. There every
single truncation, of one bond by one, is followed by fine-tuning; MiniLM's 37 chains have 12,000 of
them. Here a round cuts a tenth of the parameters, one direction at a time, and trains if too much
was lost. What goes is what the task feels least (`importance.py`), not what has the smallest
singular values. And the first round that loses too much all the same is taken back, and every cut
from then on is half as large.
"""

import math
import os
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from edgefuse.artifact.chains import save_chains
from edgefuse.artifact.compressed import from_pretrained
from edgefuse.artifact.record import RECORD as COMPRESSION
from edgefuse.artifact.record import CompressionRecord, read_record
from edgefuse.bundling.classifier import (
    check_architecture,
    set_padding,
)
from edgefuse.bundling.labels import choose_labels
from edgefuse.bundling.length import choose_length, longest_sequence
from edgefuse.compression.chains.records import record_of_squeezed
from edgefuse.hub.device import computing_on, fastest, move
from edgefuse.hub.model import empty_model, load_config
from edgefuse.hub.source import find_source
from edgefuse.hub.tokenizer import ModelTokenizer, load_padding_tokenizer
from edgefuse.layers.chains.modules import chains_of
from edgefuse.squeezing.cutting import cut_chains, make_canonical
from edgefuse.squeezing.importance import importance
from edgefuse.squeezing.record import (
    RECORD,
    Round,
    SqueezeRecord,
    SqueezeSettings,
    read_squeeze,
    write_squeeze,
)
from edgefuse.squeezing.training import Rows, accuracy, tokenize_rows, train
from edgefuse.tuning.ways.mpo import Mpo
from edgefuse_devices.errors import Interrupted, ModelError, OutputError, RunError
from edgefuse_runtime.bundle.bundle import digest
from edgefuse_runtime.data.batching import batches_per_epoch
from edgefuse_runtime.data.dataset import read_examples
from edgefuse_runtime.data.labels import labels_of_rows
from edgefuse_runtime.files.output import check_replaceable, new_directory
from edgefuse_runtime.training.run import TrainingSettings

_FAILURES = 2  # after which it ends; each halves the cuts
_BATCHES = 50  # of which importance is a mean
_PASSES = TrainingSettings().epochs  # before the first cut, as many as `finetune` makes


@dataclass(frozen=True)
class Observer:
    """What is told how far a squeeze is.

    Attributes:
        on_batch: Of the round's index and the batches that it looks at before it cuts, done and in
            all.
        on_step: Of the round's index and its training steps, done and in all.
        on_round: After each round, with what was reached.
    """

    on_batch: Callable[[int, int, int], None] = lambda _round, _batch, _batches: None
    on_step: Callable[[int, int, int], None] = lambda _round, _step, _steps: None
    on_round: Callable[[Round], None] = lambda _round: None


@dataclass(frozen=True)
class _Task:
    """What stays the same through all rounds."""

    settings: SqueezeSettings
    train: Rows
    valid: Rows
    tokenizer: ModelTokenizer
    observer: Observer
    stop: Callable[[], bool]

    @property
    def first_steps(self) -> int:
        """Training steps before the first cut."""
        given = self.settings.first_steps
        if given is not None:
            return given
        return _PASSES * batches_per_epoch(len(self.train.labels), self.settings.batch_size)


def squeeze(
    model: str,
    output: Path,
    *,
    train_file: Path,
    valid_file: Path,
    settings: SqueezeSettings,
    resume: bool = False,
    overwrite: bool = False,
    observer: Observer | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> SqueezeRecord:
    """Squeeze the chains of a classifier as far as its accuracy allows.

    While it works, OUTPUT.squeezing beside the output holds the last round within the gap. A killed
    one resumes there, and gives what it would have given.

    Args:
        model: A directory that `compress --method mpo` made.
        output: The compressed model directory to make, with a trained head.
        train_file: Labelled rows to train on.
        valid_file: Labelled rows to measure accuracy on.
        settings: How.
        resume: Go on with what OUTPUT.squeezing holds.
        overwrite: Replace the output, and an earlier attempt.
        observer: Told of steps and rounds.
        stop: Asked after every batch; True raises `Interrupted`.

    Returns:
        The record of all rounds.

    Raises:
        InputError: The model, the data or the output do not hold.
        RunError: What is to be resumed was begun otherwise.
        Interrupted: `stop` said so.
    """
    source = find_source(model)
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
    config = load_config(source)
    check_architecture(config, model)
    labels = choose_labels(config, labels_of_rows(train_file), model)
    tokenizer = load_padding_tokenizer(source)
    longest = choose_length(None, longest_sequence(empty_model(config)))

    def rows(file: Path) -> Rows:
        return tokenize_rows(tokenizer, read_examples(file, labels), longest=longest)

    train_rows, valid_rows = rows(train_file), rows(valid_file)
    begun = SqueezeRecord(
        source=source.label,
        chains=[digest(file) for file in sorted(Path(source.name).glob("*.safetensors"))],
        parameters_before=compression.parameters_before,
        settings=settings,
        train=digest(train_file),
        valid=digest(valid_file),
        labels=labels,
    )
    task = _Task(settings, train_rows, valid_rows, tokenizer, observer or Observer(), stop)
    output = Path(os.path.realpath(output))
    work = output.with_name(f"{output.name}.squeezing")
    if resume and not (work / RECORD).is_file():
        return _finished(output, begun)
    check_replaceable(output, COMPRESSION, overwrite=overwrite)
    record = _begin(work, begun, resume=resume, overwrite=overwrite)
    with computing_on(fastest()):
        if not record.rounds:
            classifier = _load(source.name, record, tokenizer)
            record = _round(task, work, record, classifier, compression)
        while record.failures < _FAILURES and not record.small_enough:
            last = work / f"round-{record.kept}"
            classifier = _load(str(last), record, tokenizer)
            compressed = read_record(last)
            assert compressed is not None
            if not _cut(task, record, classifier):
                break
            record = _round(task, work, record, classifier, compressed)
    _finish(work, record, output, overwrite=overwrite)
    return record


def _finished(output: Path, begun: SqueezeRecord) -> SqueezeRecord:
    """The record of a squeeze that has ended, which is what resuming it gives."""
    if not (output / RECORD).is_file():
        raise RunError(
            f"there is no squeeze of {output} to go on with", "Begin one without --resume"
        )
    stored = read_squeeze(output)
    if not _same(stored, begun):
        raise RunError(
            f"{output} was squeezed from another model, with other data or other settings",
            "Give those again, or begin anew without --resume and with --overwrite",
        )
    return stored


def _same(stored: SqueezeRecord, begun: SqueezeRecord) -> bool:
    """Whether two begin alike, whatever came of it and by whatever version."""
    return stored == msgspec.structs.replace(
        begun, rounds=stored.rounds, edgefuse_version=stored.edgefuse_version
    )


def _begin(work: Path, begun: SqueezeRecord, *, resume: bool, overwrite: bool) -> SqueezeRecord:
    """Make the working directory, or open the one that is there."""
    if resume:
        stored = read_squeeze(work)
        if not _same(stored, begun):
            raise RunError(
                f"{work} was begun with another model, other data or other settings",
                "Give those again, or begin anew without --resume and with --overwrite",
            )
        return stored
    if (work / RECORD).is_file():
        if not overwrite:
            raise OutputError(
                f"{work} is there already", "Go on with --resume, or begin anew with --overwrite"
            )
        _discard(work)
    check_replaceable(work, RECORD, overwrite=overwrite)
    work.mkdir(parents=True, exist_ok=True)
    write_squeeze(work, begun)
    return begun


def _load(name: str, record: SqueezeRecord, tokenizer: ModelTokenizer) -> PreTrainedModel:
    torch.manual_seed(record.settings.seed)  # of a head that the model lacks
    model = from_pretrained(
        name,
        AutoModelForSequenceClassification,
        num_labels=len(record.labels),
        id2label=dict(enumerate(record.labels)),
        label2id={label: index for index, label in enumerate(record.labels)},
    )
    set_padding(model, tokenizer.padding_id)
    move(model, fastest())
    return model


def _cut(task: _Task, record: SqueezeRecord, model: PreTrainedModel) -> bool:
    """Cut a model that was kept, in place, the less the more often that has failed."""
    settings, index = task.settings, len(record.rounds)

    def on_batch(batch: int) -> None:
        task.observer.on_batch(index, batch, _BATCHES)
        _stop_if_asked(task, f"before the cut of round {index}")

    make_canonical(model)
    felt = importance(
        model,
        task.train,
        count=_BATCHES,
        batch_size=settings.batch_size,
        seed=settings.seed + index,
        on_batch=on_batch,
    )
    return cut_chains(model, _count_to_cut(record, model), felt)


def _count_to_cut(record: SqueezeRecord, model: PreTrainedModel) -> int:
    """What a step makes, no more than the budget asks for, and half of what was just too much."""
    chained: int = sum(t.numel() for chain in chains_of(model).values() for t in chain.tensors)
    step = math.ceil(chained * record.settings.step * 0.5**record.failures)
    count = min(step, record.excess)
    last, kept = record.rounds[-1], record.rounds[record.kept]
    if last.kept:
        return count
    return min(count, (kept.parameters - last.parameters + 1) // 2)


def _stop_if_asked(task: _Task, when: str) -> None:
    if task.stop():
        raise Interrupted(
            f"stopped {when}",
            "Give the same command again with --resume to go on with this round",
        )


def _round(
    task: _Task,
    work: Path,
    record: SqueezeRecord,
    model: PreTrainedModel,
    compression: CompressionRecord,
) -> SqueezeRecord:
    """Evaluate a model that was cut, train it if it needs that; save it if it is within the gap."""
    index, settings = len(record.rounds), task.settings
    steps = settings.steps if index else task.first_steps
    least = record.rounds[0].accuracy - settings.max_drop / 100 - 1e-9 if index else 0.0

    def on_step(step: int) -> None:
        task.observer.on_step(index, step, steps)
        _stop_if_asked(task, f"in round {index}, after {step} of {steps} steps")

    reached = accuracy(model, task.valid) if index else -1.0
    if reached >= least:
        steps = 0
    else:
        train(
            model,
            task.train,
            way=Mpo(auxiliary_rate=settings.auxiliary_rate),
            steps=steps,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            seed=settings.seed + index,
            on_step=on_step,
        )
        reached = accuracy(model, task.valid)
    kept = reached >= least
    if kept:
        folder = work / f"round-{index}"
        with new_directory(folder, marker=COMPRESSION, overwrite=True) as directory:
            save_chains(directory, model, task.tokenizer, record_of_squeezed(compression, model))
    one = Round(parameters=model.num_parameters(), accuracy=reached, steps=steps, kept=kept)
    before = record
    record = msgspec.structs.replace(record, rounds=[*before.rounds, one])
    write_squeeze(work, record)
    if kept and index:
        shutil.rmtree(work / f"round-{before.kept}")
    task.observer.on_round(one)
    return record


def _finish(work: Path, record: SqueezeRecord, output: Path, *, overwrite: bool) -> None:
    """Move the last round that was kept to the output, and clear up."""
    with new_directory(output, marker=COMPRESSION, overwrite=overwrite) as folder:
        shutil.copytree(work / f"round-{record.kept}", folder, dirs_exist_ok=True)
        write_squeeze(folder, record)
    _discard(work)


def _discard(work: Path) -> None:
    """Delete a squeeze, under another name: half of one could neither go on nor be replaced."""
    discarded = work.with_name(f".{work.name}.discarded")
    shutil.rmtree(discarded, ignore_errors=True)
    work.rename(discarded)
    shutil.rmtree(discarded)
