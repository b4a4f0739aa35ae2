"""`edgefuse compress --method mpo`."""

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from edgefuse.cli._output import print_json, print_table, print_text, progress_bars
from edgefuse.report.table import Table
from edgefuse_devices.errors import InputError

if TYPE_CHECKING:
    from edgefuse.artifact.record import CompressionRecord


def refuse_options(method: str, options: Mapping[str, object]) -> None:
    """Refuse options that were given and belong to other methods.

    Raises:
        InputError: There are some.
    """
    given = [f"--{name}" for name, value in options.items() if value is not None]
    if given:
        others = "a method that fuses MLPs" if method == "mpo" else "--method mpo"
        raise InputError(
            f"--method {method} has no {' and no '.join(given)}",
            f"Leave it out, or choose {others}",
        )


def compress_mpo(
    model: str,
    output: Path,
    *,
    matrices: str,
    bond: int | None,
    budget: float | None,
    max_error: float | None,
    share_central: bool,
    revision: str | None,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Decompose, write, show; the arguments are the command's."""
    from edgefuse.artifact.record import RECORD
    from edgefuse.compression.chains.compress import compress, decompose_model, plan_mpo
    from edgefuse.compression.chains.limit import Limit
    from edgefuse.mlps.matrices import parse_kinds
    from edgefuse_runtime.files.output import check_replaceable

    limit = Limit(bond=bond, budget=budget, max_error=max_error)
    plan = plan_mpo(
        model,
        kinds=parse_kinds(matrices),
        limit=limit,
        shares_central=share_central,
        revision=revision,
    )
    with progress_bars() as on_progress:
        if dry_run:
            check_replaceable(output, RECORD, overwrite=overwrite)
            record = decompose_model(plan, on_progress=on_progress).record
        else:
            record = compress(plan, output, overwrite=overwrite, on_progress=on_progress)
    _show(record, output, dry_run=dry_run, as_json=as_json)


def _show(record: "CompressionRecord", output: Path, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json(
            {"dry_run": True, "compression": record}
            if dry_run
            else {"output": str(output), "compression": record}
        )
        return
    print_table(
        Table.of(
            ("matrix", "bonds", "of", "parameters", "→", "error", "bound"),
            [
                (
                    matrix.name,
                    "·".join(map(str, matrix.bonds)),
                    "·".join(map(str, matrix.full_bonds)),
                    f"{matrix.parameters_before:,}",
                    f"{matrix.parameters_after:,}",
                    *(_figure(error) for error in (matrix.error, matrix.error_bound)),
                )
                for matrix in record.matrices
            ],
            title=f"{record.source} by {record.method}" + (", a dry run" if dry_run else ""),
        )
    )
    before, after = record.parameters_before, record.parameters_after
    chains = sum(matrix.parameters_after for matrix in record.matrices)
    whole = sum(matrix.parameters_before for matrix in record.matrices)
    auxiliary = sum(matrix.auxiliary_parameters for matrix in record.matrices)
    of_what = " of those before it was fused" if record.layers else ""
    print_text(
        f"Parameters of the whole model: {before:,} → {after:,} ({after / before:.0%}{of_what})",
        f"In auxiliary tensors: {auxiliary:,}, {auxiliary / chains:.0%} of the chains' {chains:,}",
    )
    if chains > whole:
        shared = any(matrix.shares_central_of for matrix in record.matrices)
        by_task = "" if shared else ", `edgefuse squeeze` cuts them by a task"
        print_text(
            "Chains at high bonds take more than their matrices: --bond, --budget and --max-error "
            f"cut them now{by_task}."
        )
    if dry_run:
        print_text("Nothing was written.")
        return
    print_text(
        "Plain transformers cannot load it: use edgefuse.from_pretrained.",
        f"Wrote {output}. Next:",
        f"  edgefuse export {quote(str(output))} {quote(f'{output}-bundle')} "
        "--device rpi5 --labels train.jsonl --tune mpo",
    )


def _figure(error: float | None) -> str:
    return "-" if error is None else f"{error:.3f}"  # shared central tensors have no bound
