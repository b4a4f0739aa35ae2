"""`edgefuse compress` as plain functions: plan, then do."""

from pathlib import Path

from edgefuse.artifact.record import RECORD, CompressionRecord
from edgefuse.compression.catalog import find_method
from edgefuse.compression.method import Method, Plan
from edgefuse.hub.sentence_modules import copy_sentence_modules
from edgefuse.hub.source import find_source
from edgefuse_devices.errors import InputError
from edgefuse_runtime.files.output import check_replaceable, new_directory
from edgefuse_runtime.progress import OnProgress, silent


def plan_compression(
    model: str,
    *,
    method: str | Method = "mlp-fusion",
    seed: int = 0,
    revision: str | None = None,
    **options: object,
) -> Plan:
    """Plan a compression. Reads the configuration and the text, not the weights.

    Args:
        model: A directory, a GGUF file or a hub name.
        method: A method of compression, or its name.
        seed: Seed of whatever the method draws.
        revision: Branch, tag or commit on the hub.
        **options: Options of the method that is named, such as `ratio=0.25`.

    Raises:
        InputError: The model, an option or the text does not hold, or the method does not suit
            the model; the message names the reason.
    """
    found = find_method(method, options)
    if not 0 <= seed < 1 << 32:
        raise InputError(f"--seed is {seed}", "Give a number from 0 to 2³² - 1")
    return found.plan(find_source(model, revision), seed=seed)


def compress(
    model: str,
    output: Path,
    *,
    method: str | Method = "mlp-fusion",
    seed: int = 0,
    revision: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    on_progress: OnProgress = silent,
    **options: object,
) -> CompressionRecord:
    """Compress a model and write it as a compressed model directory, whole or not at all.

    Args:
        model: A directory, a GGUF file or a hub name.
        output: The directory to make.
        method: A method of compression, or its name.
        seed: Seed of whatever the method draws: same seed, same machine, same bytes.
        revision: Branch, tag or commit on the hub.
        overwrite: Replace a compressed model that is there.
        dry_run: Write nothing.
        on_progress: Observer, called after each step of a stage.
        **options: Options of the method that is named, such as `ratio=0.25`.

    Returns:
        What edgefuse.json holds; of a dry run, what is known of it.

    Raises:
        InputError: The model, an option, the text or the output does not hold.
    """
    plan = plan_compression(model, method=method, seed=seed, revision=revision, **options)
    if dry_run:
        check_replaceable(output, RECORD, overwrite=overwrite)
        return plan.preview(on_progress)
    with new_directory(
        output, marker=RECORD, overwrite=overwrite, needed_bytes=plan.needed_bytes
    ) as directory:
        record = plan.make(directory, on_progress)
        copy_sentence_modules(plan.source, directory)
        return record
