"""What a compression refuses before it begins, and a dry run: all of it but the writing."""

from pathlib import Path

from edgefuse.artifact.record import RECORD, CompressionRecord
from edgefuse.compression.chains.compress import METHOD, MPOPlan, decompose_model
from edgefuse.compression.compress import CompressionPlan, check_compression
from edgefuse_devices.errors import InputError
from edgefuse_runtime.files.output import check_replaceable
from edgefuse_runtime.progress import OnProgress, silent


def dry_run(
    plan: CompressionPlan | MPOPlan,
    output: Path,
    *,
    calibration: Path | None = None,
    refit: bool | None = None,
    tune_text: Path | None = None,
    allocation: str = "even",
    overwrite: bool = False,
    on_progress: OnProgress = silent,
) -> CompressionRecord | None:
    """Refuse what a compression would refuse, and write nothing.

    Args:
        plan: A plan of a compression.
        output: The directory that would be made.
        calibration: Text to fit the narrow MLPs to and to measure errors on.
        refit: Whether to fit each output to the original's; None for the method's own choice.
        tune_text: Text to teach the narrow MLPs on.
        allocation: Name of the rule by which MLPs get their widths.
        overwrite: Whether a compressed model that is there may be replaced.
        on_progress: Observer, called after each matrix that becomes a chain.

    Returns:
        The record of a decomposition, whose errors are known only when it is done; None for a
        fusion, of which the plan says everything.

    Raises:
        InputError: The model, an option, a text or the output does not hold.
    """
    if isinstance(plan, MPOPlan):
        refuse_text(calibration, tune_text, refit=refit, allocation=allocation)
        check_replaceable(output, RECORD, overwrite=overwrite)
        return decompose_model(plan, on_progress=on_progress).record
    check_replaceable(output, RECORD, overwrite=overwrite)
    check_compression(
        plan, calibration=calibration, refit=refit, tune_text=tune_text, allocation=allocation
    )
    return None


def refuse_text(
    calibration: Path | None, tune_text: Path | None, *, refit: bool | None, allocation: str
) -> None:
    """Refuse options of fusions for a plan that makes chains.

    Raises:
        InputError: An option was given.
    """
    refuse_options(
        METHOD,
        calibration=calibration,
        refit=refit or None,
        no_refit=True if refit is False else None,
        tune_text=tune_text,
        allocation=None if allocation == "even" else allocation,
    )


def refuse_options(method: str, **options: object) -> None:
    """Refuse options that were given and belong to other methods.

    Args:
        method: Name of the method that was chosen.
        **options: Options of other methods; None for one that was not given.

    Raises:
        InputError: An option was given.
    """
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if given:
        others = "a method that fuses MLPs" if method == METHOD else f"--method {METHOD}"
        raise InputError(
            f"--method {method} has no {' and no '.join(given)}",
            f"Leave it out, or choose {others}",
        )
