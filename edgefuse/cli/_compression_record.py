"""What a compression did, or would do, as tables."""

from pathlib import Path
from typing import TYPE_CHECKING

from edgefuse.cli._next_export import next_export
from edgefuse.cli._output import print_table, print_text
from edgefuse.report.table import Table
from edgefuse_export.tasks.registry import likely_task

if TYPE_CHECKING:
    from edgefuse.artifact.record import CompressionRecord, LayerRecord


def show_record(record: "CompressionRecord", output: Path | None) -> None:
    """Print the record of a compression.

    Args:
        record: The record.
        output: The directory that was made; None after a dry run.
    """
    if record.matrices:
        print_table(_table_of_matrices(record, dry_run=output is None))
    else:
        print_table(_table_of_layers(record, dry_run=output is None))
    if output is None and record.allocation == "sensitivity":
        print_text("The widths are the budget: how it is shared out is known only with the text.")
    if record.left_out:
        first, *others = record.left_out
        more = f" and {len(others)} more" if others else ""
        print_text(
            f"Left as they are: {first}{more}, experts that are built in no way EdgeFuse knows."
        )
    before, after = record.parameters_before, record.parameters_after
    of_what = " of those before it was fused" if record.matrices and record.layers else ""
    print_text(
        f"Parameters of the whole model: {before:,} → {after:,} ({after / before:.0%}{of_what})"
    )
    if record.matrices:
        _show_chains(record)
    if output is None:
        print_text("Nothing was written.")
        return
    if record.matrices:
        print_text("Plain transformers cannot load it: use edgefuse.from_pretrained.")
    elif not record.even:
        print_text(
            "No configuration of that architecture can say these widths, so plain transformers "
            "refuses this directory: load it with edgefuse.from_pretrained."
        )
    tune = "mpo" if record.matrices else None
    command = next_export(output, likely_task(output), tune=tune)
    print_text(f"Wrote {output}. Next:", f"  {command}")


def _table_of_layers(record: "CompressionRecord", *, dry_run: bool) -> Table:
    measured = bool(record.held_out_texts) and not dry_run
    errors = ("output error", "sign-NTK error") if measured else ()
    return Table.of(
        ("layer", "width", "→", "parameters", "→", *errors),
        [
            (
                _place(layer),
                layer.width_before,
                layer.width_after,
                f"{layer.parameters_before:,}",
                f"{layer.parameters_after:,}",
                *((_figure(layer.output_error), _figure(layer.sign_ntk_error)) if measured else ()),
            )
            for layer in record.layers
        ],
        title=f"{record.source}, a dry run" if dry_run else _title(record, "fused"),
    )


def _table_of_matrices(record: "CompressionRecord", *, dry_run: bool) -> Table:
    return Table.of(
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
        title=_title(record, "decomposed") + (", a dry run" if dry_run else ""),
    )


def _title(record: "CompressionRecord", what: str) -> str:
    return f"{record.source}, {what} by {record.method}"


def _show_chains(record: "CompressionRecord") -> None:
    chains = sum(matrix.parameters_after for matrix in record.matrices)
    whole = sum(matrix.parameters_before for matrix in record.matrices)
    auxiliary = sum(matrix.auxiliary_parameters for matrix in record.matrices)
    print_text(
        f"In auxiliary tensors: {auxiliary:,}, {auxiliary / chains:.0%} of the chains' {chains:,}"
    )
    if chains > whole:
        shared = any(matrix.shares_central_of for matrix in record.matrices)
        by_task = "" if shared else ", `edgefuse squeeze` cuts them by a task"
        print_text(
            "Chains at high bonds take more than their matrices: --bond, --budget and --max-error "
            f"cut them now{by_task}."
        )


def _place(layer: "LayerRecord") -> str:
    return f"{layer.layer}" if layer.expert is None else f"{layer.layer}, expert {layer.expert}"


def _figure(error: float | None) -> str:
    return "-" if error is None else f"{error:.3f}"  # nothing measured it, as of an unused expert
