"""`edgefuse compress`."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from edgefuse.cli._output import print_json, print_table, print_text, progress_bar

if TYPE_CHECKING:
    from edgefuse.compression.compress import CompressionPlan
    from edgefuse.models.record import CompressionRecord


def compress(
    model: Annotated[str, typer.Argument(help="A model's directory, or its name on the hub.")],
    output: Annotated[Path, typer.Argument(help="The directory to make.")],
    method: Annotated[str, typer.Option(help="How to compress.")] = "mlp-fusion",
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
        typer.Option(help="Text to teach each narrow MLP on, layer by layer; needs no labels."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the clustering.")] = 0,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of the model on the hub.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a compressed model that is there.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would happen and write nothing.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Fuse the MLPs of a transformer, for fine-tuning on a small board.

    Neurons that are alike become one, which stands for all of them in the output and in the
    gradients (MLP Fusion, ICML 2023). Knows BERT, RoBERTa, DistilBERT, ELECTRA and ALBERT.

        edgefuse compress sentence-transformers/all-MiniLM-L6-v2 fused --ratio 0.5
    """
    from edgefuse.compression import compress as core
    from edgefuse.compression.methods import find_method

    chosen = find_method(method)
    plan = core.plan_compression(model, ratio=ratio, width=width, layers=layers, revision=revision)
    if dry_run:
        _show_plan(plan, as_json=as_json)
        return
    with progress_bar("Fusing layers", len(plan.layers)) as advance:
        record = core.compress(
            plan,
            output,
            method=chosen,
            seed=seed,
            calibration=calibration,
            refit=refit,
            tune_text=tune_text,
            overwrite=overwrite,
            on_layer=advance,
        )
    _show_record(record, output, as_json=as_json)


def _show_plan(plan: "CompressionPlan", *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "dry_run": True,
                "source": plan.source.label,
                "revision": plan.source.revision,
                "even": plan.even,
                "parameters_before": plan.parameters_before,
                "parameters_after": plan.parameters_after,
                "layers": plan.layers,
            }
        )
        return
    print_table(
        ("layer", "width", "→", "parameters", "→"),
        [
            (
                layer.layer,
                layer.width_before,
                layer.width_after,
                f"{layer.parameters_before:,}",
                f"{layer.parameters_after:,}",
            )
            for layer in plan.layers
        ],
        title=f"{plan.source.label}, a dry run",
    )
    print_text(_totals(plan.parameters_before, plan.parameters_after), "Nothing was written.")


def _show_record(record: "CompressionRecord", output: Path, *, as_json: bool) -> None:
    if as_json:
        print_json({"output": str(output), "compression": record})
        return
    measured = record.calibration_texts > 0
    print_table(
        ("layer", "width", "→", "parameters", "→", *(("output error",) if measured else ())),
        [
            (
                layer.layer,
                layer.width_before,
                layer.width_after,
                f"{layer.parameters_before:,}",
                f"{layer.parameters_after:,}",
                *((f"{layer.output_error:.3f}",) if layer.output_error is not None else ()),
            )
            for layer in record.layers
        ],
        title=f"{record.source}, fused by {record.method}",
    )
    print_text(_totals(record.parameters_before, record.parameters_after))
    if not record.even:
        print_text(
            "The layers' widths differ now, so plain transformers refuses this directory: "
            "load it with edgefuse.from_pretrained."
        )
    print_text(
        f"Wrote {output}. Next:",
        f"  edgefuse export {quote(str(output))} {quote(f'{output}-bundle')} "
        "--device rpi5 --labels train.jsonl",
    )


def _totals(before: int, after: int) -> str:
    return f"Parameters of the whole model: {before:,} → {after:,} ({after / before:.0%})"
