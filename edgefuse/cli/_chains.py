"""The table of chains that `edgefuse compress --method mpo` shows."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from edgefuse.cli._output import print_json, print_table, print_text
from edgefuse.report.table import Table

if TYPE_CHECKING:
    from edgefuse.artifact.record import CompressionRecord


def show_chains(record: "CompressionRecord", output: Path, *, dry_run: bool, as_json: bool) -> None:
    """Show what became of every matrix, and what to do next."""
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
