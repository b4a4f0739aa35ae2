"""`edgefuse export` as a plain function: find, load, prepare, write."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgefuse.bundling.engine import check_engine, check_task, find_engine, suitable_engine
from edgefuse.bundling.files import write_files
from edgefuse.bundling.load import load
from edgefuse.bundling.ready import make_ready
from edgefuse.bundling.source import Origin, find_origin
from edgefuse.bundling.tokenizer_proof import prove_tokenizer
from edgefuse.hub.gguf_blocks import GGUFBlocks
from edgefuse.tuning.way import Way
from edgefuse.tuning.ways import find_way
from edgefuse_devices.errors import InputError
from edgefuse_devices.names import unknown
from edgefuse_devices.profile import DeviceProfile
from edgefuse_export.base.frozen import quantize_frozen
from edgefuse_export.engines.engine import EngineExport
from edgefuse_export.engines.registry import ENGINE_EXPORTS
from edgefuse_export.operators.dropout import parse_dropout
from edgefuse_export.source import Source
from edgefuse_export.tasks.task import ExportTask, WantedTask
from edgefuse_export.writer import BATCH_SIZES, Request, write_bundle
from edgefuse_runtime.bundle.bundle import MANIFEST, Bundle
from edgefuse_runtime.checking.texts import write_texts
from edgefuse_runtime.files.output import check_replaceable, new_directory
from edgefuse_runtime.graph.base import BITS, Blocks, Precision
from edgefuse_runtime.optimizers.adamw import AdamW
from edgefuse_runtime.optimizers.optimizer import Optimizer
from edgefuse_runtime.progress import OnProgress, silent

_FLOAT = "float32"
_BYTES_BESIDE_WEIGHTS = 20_000_000


def export(
    model: str,
    output: Path,
    *,
    device: DeviceProfile,
    task: WantedTask,
    tune: str | Way = "full",
    batch_size: int | None = None,
    sequence_length: int | None = None,
    optimizer: Optimizer | None = None,
    dropout: str | float | None = None,
    base: str = "float32",
    engine: str | None = None,
    seed: int = 0,
    revision: str | None = None,
    overwrite: bool = False,
    on_progress: OnProgress = silent,
) -> Bundle:
    """Export a model's training as a bundle, whole or not at all.

    Args:
        model: A compressed model's directory, a plain model's, a peft adapter's, a GGUF
            file, or a hub name.
        output: The directory to make.
        device: The board.
        task: What the model is trained for.
        tune: A way of tuning, or the name of one with its own options.
        batch_size: Count of rows in a batch; None for what the board's memory takes.
        sequence_length: Count of tokens that texts are cut to; None for 128 or what the model
            takes.
        optimizer: The optimizer; None for AdamW.
        dropout: Probability that an activation is dropped while training, `model` for the model's
            own probabilities; None for none.
        base: How matrices that do not train are kept: float32, int8 or int4.
        engine: Name of the engine whose graphs to write; None for the one that suits the model.
        seed: Seed of a head that the model lacks.
        revision: Branch, tag or commit on the hub.
        overwrite: Replace a bundle that is there.
        on_progress: Observer, called before each stage.

    Raises:
        InputError: The model, the way of tuning, the sizes or the output do not hold.
        InternalError: A graph does not compute what torch computes.
    """
    optimizer = optimizer or AdamW()
    check_replaceable(output, MANIFEST, overwrite=overwrite)
    _check_numbers(optimizer, batch_size, seed)
    dropping = parse_dropout(dropout)
    way = find_way(tune)
    precision = _find_precision(base)
    if engine:
        find_engine(engine)  # a name that is none is refused before anything is read
    origin = find_origin(model, revision)
    loaded = load(origin, task, seed=seed)
    _check_batch(loaded.task, batch_size)
    if engine:
        check_task(find_engine(engine), loaded.task)
    ready = make_ready(
        origin,
        task,
        loaded,
        way,
        rows=batch_size or BATCH_SIZES[0],
        sequence_length=sequence_length,
    )
    source = Source(
        task=loaded.task,
        model=ready.model,
        inference=ready.prepared.inference,
        merges=ready.prepared.merges,
        fused=ready.fused,
        optimizer=optimizer,
        dropout=dropping,
        vocabulary=ready.model.config.vocab_size,
    )
    engine_export = find_engine(engine or suitable_engine(source))
    check_engine(
        engine_export, source, rates=ready.prepared.rates.values(), mask=ready.prepared.mask
    )
    if precision:
        _check_few_bits(engine_export, precision)
        frozen = quantize_frozen(
            loaded.task,
            ready.model,
            precision,
            way=way.name,
            vocabulary=source.vocabulary,
            known=_known(origin, precision),
        )
        source = replace(source, base=frozen)
    request = Request(
        source=source,
        info=ready.info,
        tuning=way.name,
        not_plain=ready.prepared.not_plain,
        without_gradient=ready.without_gradient,
        learning_rate=way.learning_rate * optimizer.rate_factor,
        rates=ready.prepared.rates,
        mask=ready.prepared.mask,
        kept=ready.prepared.kept,
        padding_id=loaded.padding_id,
        batch_size=batch_size,
        sequence_length=ready.sequence_length,
        device=device,
        engine=engine_export,
    )
    needed = 2 * ready.info.parameters * 4 + _BYTES_BESIDE_WEIGHTS
    with new_directory(output, marker=MANIFEST, overwrite=overwrite, needed_bytes=needed) as folder:
        write_files(folder, origin, loaded, ready)
        texts = prove_tokenizer(
            folder,
            origin.base,
            loaded.tokenizer,
            length=ready.sequence_length,
            split_words=task.splits_words,
        )
        write_texts(folder, texts)
        bundle = write_bundle(request, folder, on_progress=on_progress)
    return Bundle(output, bundle.manifest, bundle.id)


def _known(origin: Origin, precision: Precision) -> Callable[[NDArray[np.float32]], Blocks | None]:
    """Finds what a GGUF file has for a matrix, in so many bits or more, but few."""
    if origin.base.gguf is None:
        return lambda _: None
    return GGUFBlocks(Path(origin.base.name), least=precision).of


def _check_numbers(optimizer: Optimizer, batch_size: int | None, seed: int) -> None:
    """Refuse what can be refused before all the work."""
    for name, value in msgspec.to_builtins(optimizer).items():
        if isinstance(value, float) and not math.isfinite(value):  # no manifest could hold it
            raise InputError(f"--{name.replace('_', '-')} is {value}", "Give a finite number")
    try:
        msgspec.convert(msgspec.to_builtins(optimizer), type(optimizer))
    except msgspec.ValidationError as error:
        raise InputError(f"The optimizer {optimizer.name} does not hold: {error}") from None
    if batch_size is not None and batch_size < 1:
        raise InputError(f"--batch-size is {batch_size}", "Give at least 1")
    if not 0 <= seed < 1 << 63:
        raise InputError(f"--seed is {seed}", "Give a number from 0 to 2⁶³ - 1")


def _check_batch(task: ExportTask, batch_size: int | None) -> None:
    least = task.task.smallest_batch
    if batch_size is not None and batch_size < least:
        raise InputError(
            f"--batch-size is {batch_size}, and {task.task.summary} learns nothing from fewer than "
            f"{least} rows at once",
            f"Give {least} or more",
        )


def _find_precision(base: str) -> Precision | None:
    """How matrices that do not train are kept, if not in float32."""
    if base == _FLOAT:
        return None
    if base not in BITS:
        raise InputError(*unknown("precision of a base", base, [_FLOAT, *BITS]))
    return cast("Precision", base)


def _check_few_bits(engine: EngineExport, precision: Precision) -> None:
    if not engine.keeps_few_bits:
        able = [name for name, one in ENGINE_EXPORTS.items() if one.keeps_few_bits]
        raise InputError(
            f"The engine {engine.spec().name} keeps every matrix in float32, and --base is "
            f"{precision}",
            f"Export with --engine {' or --engine '.join(able)}",
        )
