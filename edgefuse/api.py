"""The functions of the workstation: names and paths in, records out. Every command calls one.

A function imports what it needs itself, so that `import edgefuse` and `edgefuse --help` take no
torch. May import everything but `cli`, `report` and `demo`.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgefuse_devices.catalog import load_device
from edgefuse_devices.profile import DeviceProfile
from edgefuse_runtime.progress import OnProgress, silent

if TYPE_CHECKING:
    from edgefuse.artifact.record import CompressionRecord
    from edgefuse.bundling.plan import Plan as TuningPlan
    from edgefuse.compression.method import Method, Plan
    from edgefuse.squeezing.record import SqueezeRecord, SqueezeSettings
    from edgefuse.tuning.way import Way
    from edgefuse_export.tasks.task import WantedTask
    from edgefuse_runtime.bundle.bundle import Bundle
    from edgefuse_runtime.optimizers.optimizer import Optimizer

StrPath = str | os.PathLike[str]


def plan_compression(
    model: StrPath,
    *,
    method: "str | Method" = "mlp-fusion",
    seed: int = 0,
    revision: str | None = None,
    **options: object,
) -> "Plan":
    """Plan a compression by the model's configuration and the text, without its weights.

    Args:
        model: A model's directory, a GGUF file, or a hub name.
        method: A method of compression, or its name.
        seed: Seed of whatever the method draws.
        revision: Branch, tag or commit on the hub.
        **options: Options of the method that is named, such as `ratio=0.25`.

    Raises:
        InputError: The model, an option or the text does not hold.
    """
    from edgefuse.compression.compress import plan_compression as core

    return core(os.fspath(model), method=method, seed=seed, revision=revision, **options)


def compress(
    model: StrPath,
    output: StrPath,
    *,
    method: "str | Method" = "mlp-fusion",
    seed: int = 0,
    revision: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    on_progress: OnProgress = silent,
    **options: object,
) -> "CompressionRecord":
    """Compress a model, and write it as a directory that is whole or not there at all.

    Args:
        model: A model's directory, a GGUF file, or a hub name.
        output: The directory to make.
        method: A method of compression, or its name.
        seed: Seed of whatever the method draws: same seed, same machine, same bytes.
        revision: Branch, tag or commit on the hub.
        overwrite: Whether to replace a compressed model that is there.
        dry_run: Whether to write nothing.
        on_progress: Observer, called after each step of a stage.
        **options: Options of the method that is named, such as `ratio=0.25`.

    Returns:
        The content of edgefuse.json; of a dry run, what is known of it.

    Raises:
        InputError: The model, an option, a text or the output does not hold.
    """
    from edgefuse.compression.compress import compress as core

    return core(
        os.fspath(model),
        Path(output),
        method=method,
        seed=seed,
        revision=revision,
        overwrite=overwrite,
        dry_run=dry_run,
        on_progress=on_progress,
        **options,
    )


def squeeze(
    model: StrPath,
    output: StrPath,
    *,
    train: StrPath,
    valid: StrPath,
    task: "str | WantedTask" = "text-classification",
    settings: "SqueezeSettings | None" = None,
    resume: bool = False,
    overwrite: bool = False,
    on_progress: OnProgress = silent,
    stop: Callable[[], bool] = lambda: False,
    **options: object,
) -> "SqueezeRecord":
    """Cut the bonds of a model's chains as far as a task allows.

    Args:
        model: A directory that `compress` made by the method `mpo`.
        output: The compressed model's directory to make, with a trained head.
        train: Rows to train on.
        valid: Rows to measure on.
        task: What the model is for: a task, its name or its synonym. Labels that are not given are
            those of the rows to train on.
        settings: How to squeeze; None for the defaults.
        resume: Whether to go on with an interrupted squeeze.
        overwrite: Whether to replace the output, and an earlier attempt.
        on_progress: Observer, called after every batch.
        stop: Called after every batch; True saves what was reached and raises `Interrupted`.
        **options: Options of the task that is named.

    Returns:
        The record of all rounds.

    Raises:
        InputError: The model, the data or the output does not hold.
        RunError: What is to be resumed was begun otherwise.
        Interrupted: `stop` returned True.
    """
    from edgefuse.squeezing.record import SqueezeSettings
    from edgefuse.squeezing.squeeze import squeeze as core
    from edgefuse_export.tasks.registry import find_task

    return core(
        os.fspath(model),
        Path(output),
        task=find_task(task, options),
        train_file=Path(train),
        valid_file=Path(valid),
        settings=settings or SqueezeSettings(),
        resume=resume,
        overwrite=overwrite,
        on_progress=on_progress,
        stop=stop,
    )


def plan(
    model: StrPath,
    *,
    device: str | DeviceProfile,
    task: "str | WantedTask" = "text-classification",
    tune: "Sequence[str | Way]" = (),
    batch_size: int = 16,
    sequence_length: int | None = None,
    optimizer: "Optimizer | None" = None,
    revision: str | None = None,
    on_progress: OnProgress = silent,
    **options: object,
) -> "TuningPlan":
    """Compute what ways of tuning would cost a model, and predict the memory that each takes.

    Args:
        model: A compressed model's directory, a plain model's, a GGUF file, or a hub
            name.
        device: A board's name, the path of a profile, or a profile.
        task: What the model is to be trained for: a task, its name or its synonym.
        tune: Ways of tuning, or their names; none for every one with its default options.
        batch_size: Rows in a step.
        sequence_length: Tokens in a row; None for 128, or what the model takes.
        optimizer: The optimizer with its settings; None for `AdamW()`.
        revision: Branch, tag or commit on the hub.
        on_progress: Observer, called after each way.
        **options: Options of the task that is named, such as `num_labels=5`.

    Raises:
        InputError: The board, the model or a size does not hold.
    """
    board = _board(device)
    from edgefuse.bundling.plan import plan as core
    from edgefuse_export.tasks.registry import find_task

    return core(
        os.fspath(model),
        device=board,
        task=find_task(task, options),
        tune=tune,
        batch_size=batch_size,
        sequence_length=sequence_length,
        optimizer=optimizer,
        revision=revision,
        on_progress=on_progress,
    )


def export(
    model: StrPath,
    output: StrPath,
    *,
    device: str | DeviceProfile,
    task: "str | WantedTask" = "text-classification",
    tune: "str | Way" = "full",
    batch_size: int | None = None,
    sequence_length: int | None = None,
    optimizer: "Optimizer | None" = None,
    dropout: str | float | None = None,
    base: str = "float32",
    engine: str | None = None,
    seed: int = 0,
    revision: str | None = None,
    overwrite: bool = False,
    on_progress: OnProgress = silent,
    **options: object,
) -> "Bundle":
    """Export a training graph for a board, as a bundle that is whole or not there at all.

    Args:
        model: A compressed model's directory, a plain model's, a peft adapter's, a GGUF
            file, or a hub name.
        output: The directory to make.
        device: A board's name, the path of a profile, or a profile.
        task: What the model is trained for: a task, its name or its synonym.
        tune: A way of tuning, or its name.
        batch_size: Rows in a batch; None for as many as the board's memory takes, up to 16.
        sequence_length: Longest text in tokens; None for 128, or what the model takes.
        optimizer: The optimizer with its settings; None for `AdamW()`.
        dropout: Probability that an activation is dropped while training, `model` for the model's
            own probabilities; None for none.
        base: How matrices that do not train are kept: float32, int8 or int4.
        engine: Name of the engine that will run the bundle; None for the one that suits the model.
        seed: Seed of a head that the model lacks.
        revision: Branch, tag or commit on the hub.
        overwrite: Whether to replace a bundle that is there.
        on_progress: Observer, called before each stage.
        **options: Options of the task and of the way that are named, such as `labels="train.jsonl"`
            and `lora_rank=4`.

    Raises:
        InputError: The board, the model, the way of tuning, a size or the output does not hold.
        InternalError: A graph does not compute what torch computes.
    """
    board = _board(device)
    from edgefuse.bundling.export import export as core
    from edgefuse.tuning.ways import find_way
    from edgefuse_export.tasks.registry import find_task, task_keywords

    own = {name: value for name, value in options.items() if name in task_keywords()}
    others = {name: value for name, value in options.items() if name not in own}
    return core(
        os.fspath(model),
        Path(output),
        device=board,
        task=find_task(task, own),
        tune=find_way(tune, others),
        batch_size=batch_size,
        sequence_length=sequence_length,
        optimizer=optimizer,
        dropout=dropout,
        base=base,
        engine=engine,
        seed=seed,
        revision=revision,
        overwrite=overwrite,
        on_progress=on_progress,
    )


def _board(device: str | DeviceProfile) -> DeviceProfile:
    return device if isinstance(device, DeviceProfile) else load_device(device)


__all__ = ["compress", "export", "plan", "plan_compression", "squeeze"]
