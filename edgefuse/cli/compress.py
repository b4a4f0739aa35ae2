"""`edgefuse compress`."""

import os
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

import edgefuse
from edgefuse.cli._chains import show_chains
from edgefuse.cli._options import Json, OutputDirectory, Overwrite, Revision
from edgefuse.cli._output import print_json, print_table, print_text, progress_bars
from edgefuse.report.table import Table

if TYPE_CHECKING:
    from edgefuse.artifact.record import CompressionRecord, LayerRecord
    from edgefuse.compression.compress import CompressionPlan
    from edgefuse.compression.plan import LayerPlan


def compress(
    model: Annotated[str, typer.Argument(help="A model's directory, or its name on the hub.")],
    output: OutputDirectory,
    method: Annotated[
        str,
        typer.Option(
            help="How to compress: mlp-fusion, mpo (any matrix as a chain of small tensors), or to "
            "compare published, clustering, sketch, sketch-top, mmd, svd, prune, prune-activation, "
            "random."
        ),
    ] = "mlp-fusion",
    ratio: Annotated[
        float | None,
        typer.Option(help="Part of each MLP's width to keep.  [default: 0.25]", show_default=False),
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="Width of each MLP to keep, instead of --ratio.")
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(help="Layers to fuse, from 0: 4-11 or 0,2,5-7.  [default: all]"),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help='Text to fit the narrow MLPs to: JSONL with "text", or .txt. A tenth is held out '
            "to measure errors on."
        ),
    ] = None,
    refit: Annotated[
        bool | None,
        typer.Option(
            help="Fit each MLP's output to the original's on the text.  [default: as the method]"
        ),
    ] = None,
    tune_text: Annotated[
        Path | None,
        typer.Option(help="Text to teach the narrow MLPs on; needs no labels."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Picture of the errors to draw, such as errors.svg; needs text."),
    ] = None,
    allocation: Annotated[
        str,
        typer.Option(
            help="Width of each MLP: even, or by sensitivity, other widths that make as many "
            "parameters in all; needs text."
        ),
    ] = "even",
    matrices: Annotated[
        str | None,
        typer.Option(
            help="mpo: which matrices, of mlp, attention and embeddings.  [default: mlp,attention]",
            show_default=False,
        ),
    ] = None,
    bond: Annotated[int | None, typer.Option(help="mpo: no bond above it.")] = None,
    budget: Annotated[
        float | None,
        typer.Option(help="mpo: part of the matrices' parameters to keep, at the least error."),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(help="mpo: relative error of each matrix at most; 0 loses nothing."),
    ] = None,
    share_central: Annotated[
        bool,
        typer.Option(
            "--share-central",
            help="mpo: experts of a layer share a central tensor; squeeze refuses such models.",
        ),
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Same seed, same machine: same bytes.")
    ] = 0,
    revision: Revision = None,
    overwrite: Overwrite = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would happen and write nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fuse the MLPs of a transformer, for fine-tuning on a small board.

    A few neurons stand for all, in the output and in the gradients (MLP Fusion, ICML 2023).
    Takes dense MLPs (BERT, GPT-2, T5 …), gated ones (Llama, Qwen, ModernBERT …) and mixtures of
    experts (Mixtral, OLMoE …), found by their structure.

    With --calibration, neurons are chosen by what they do on text like the task's, the rest is
    fitted to it, and errors on held-out text are shown. With --tune-text, the narrow MLPs are then
    taught by the wide ones, each by itself and all together, without labels. Some thousand texts
    do, and one file can serve both. Without text, neurons are clustered by their weights.

    With --method mpo, matrices of a plain or a fused model become matrix product operators (ACL
    2021): chains of five tensors, of which `edgefuse export --tune mpo` trains the small ones.

        edgefuse compress sentence-transformers/all-MiniLM-L6-v2 fused --tune-text train.jsonl
    """
    # Before torch: its threads would spin for one another, on a busy machine longer than they work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    planned = edgefuse.plan_compression(
        model,
        method=method,
        ratio=ratio,
        width=width,
        layers=layers,
        matrices=matrices,
        bond=bond,
        budget=budget,
        max_error=max_error,
        share_central=share_central,
        revision=revision,
    )
    if plot is not None:
        _check_plot(plot, method, has_text=bool(calibration or tune_text))
    stages: dict[str, Any] = {
        "calibration": calibration,
        "refit": refit,
        "tune_text": tune_text,
        "allocation": allocation,
        "overwrite": overwrite,
    }
    with progress_bars() as on_progress:
        if dry_run:
            from edgefuse.compression.dry_run import dry_run as core

            record = core(planned, output, **stages, on_progress=on_progress)
        else:
            record = edgefuse.compress(
                planned, output, seed=seed, **stages, on_progress=on_progress
            )
    if record is not None and record.matrices:
        show_chains(record, output, dry_run=dry_run, as_json=as_json)
        return
    plan = cast("CompressionPlan", planned)
    if record is None:
        _show_plan(plan, allocation, as_json=as_json)
        return
    _show_record(record, output, plan.left_out, as_json=as_json)
    if plot is not None:
        from edgefuse.report.fidelity_plot import plot_fidelity

        plot_fidelity(record, plot)


def _check_plot(plot: Path, method: str, *, has_text: bool) -> None:
    from edgefuse.report.picture import check_picture
    from edgefuse_devices.errors import InputError

    if method == "mpo":
        raise InputError(
            "--method mpo has no --plot", "Leave it out, or choose a method that fuses MLPs"
        )
    if not has_text:
        raise InputError("--plot needs text to measure errors on", "Give --calibration a file")
    check_picture(plot)


def _show_plan(plan: "CompressionPlan", allocation: str, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "dry_run": True,
                "source": plan.source.label,
                "revision": plan.source.revision,
                "even": plan.even,
                "allocation": allocation,
                "parameters_before": plan.parameters_before,
                "parameters_after": plan.parameters_after,
                "layers": plan.outcome,
                "left_out": plan.left_out,
            }
        )
        return
    print_table(
        Table.of(
            ("layer", "width", "→", "parameters", "→"),
            [
                (
                    _place(layer),
                    layer.width_before,
                    layer.width_after,
                    f"{layer.parameters_before:,}",
                    f"{layer.parameters_after:,}",
                )
                for layer in plan.outcome
            ],
            title=f"{plan.source.label}, a dry run",
        )
    )
    if allocation == "sensitivity":
        print_text("The widths are the budget: how it is shared out is known only with the text.")
    _show_left_out(plan.left_out)
    print_text(_totals(plan.parameters_before, plan.parameters_after), "Nothing was written.")


def _show_left_out(left_out: tuple[str, ...]) -> None:
    if left_out:
        more = f" and {len(left_out) - 1} more" if len(left_out) > 1 else ""
        print_text(
            f"Left as they are: {left_out[0]}{more}, experts that are built in no way "
            "EdgeFuse knows."
        )


def _show_record(
    record: "CompressionRecord", output: Path, left_out: tuple[str, ...], *, as_json: bool
) -> None:
    if as_json:
        print_json({"output": str(output), "compression": record, "left_out": left_out})
        return
    errors = ("output error", "sign-NTK error") if record.held_out_texts else ()
    print_table(
        Table.of(
            ("layer", "width", "→", "parameters", "→", *errors),
            [
                (
                    _place(layer),
                    layer.width_before,
                    layer.width_after,
                    f"{layer.parameters_before:,}",
                    f"{layer.parameters_after:,}",
                    *(
                        (_figure(layer.output_error), _figure(layer.sign_ntk_error))
                        if errors
                        else ()
                    ),
                )
                for layer in record.layers
            ],
            title=f"{record.source}, fused by {record.method}",
        )
    )
    _show_left_out(left_out)
    print_text(_totals(record.parameters_before, record.parameters_after))
    if not record.even:
        print_text(
            "No configuration of that architecture can say these widths, so plain transformers "
            "refuses this directory: load it with edgefuse.from_pretrained."
        )
    if not record.folded:
        print_text(
            "Thin matrices are stored as they train, so plain transformers refuses this directory: "
            "load it with edgefuse.from_pretrained."
        )
    print_text(
        f"Wrote {output}. Next:",
        f"  edgefuse export {quote(str(output))} {quote(f'{output}-bundle')} "
        "--device rpi5 --labels train.jsonl",
    )


def _place(layer: "LayerPlan | LayerRecord") -> str:
    return f"{layer.layer}" if layer.expert is None else f"{layer.layer}, expert {layer.expert}"


def _figure(error: float | None) -> str:
    return "-" if error is None else f"{error:.3f}"  # no held-out token reached that expert


def _totals(before: int, after: int) -> str:
    return f"Parameters of the whole model: {before:,} → {after:,} ({after / before:.0%})"
