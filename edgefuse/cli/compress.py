"""`edgefuse compress`."""

import os
from pathlib import Path
from typing import Annotated

import typer

import edgefuse
from edgefuse.cli._compression_record import show_record
from edgefuse.cli._fields import Given, listed, with_fields
from edgefuse.cli._options import Json, OutputDirectory, Overwrite, Revision
from edgefuse.cli._output import print_json
from edgefuse.cli._progress import progress_bars
from edgefuse.compression.catalog import METHODS, find_method
from edgefuse_devices.errors import InputError

_METHOD = listed(
    "How to compress  [default: mlp-fusion]", ((one.name, one.summary) for one in METHODS)
)


@with_fields(options=[("", method) for method in METHODS])
def compress(
    model: Annotated[
        str, typer.Argument(help="A model's directory, a GGUF file, or a name on the hub.")
    ],
    output: OutputDirectory,
    *,
    method: Annotated[str, typer.Option(help=_METHOD, show_default=False)] = "mlp-fusion",
    options: Given,
    plot: Annotated[
        Path | None,
        typer.Option(help="Picture of the errors to draw, such as errors.svg; needs text."),
    ] = None,
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
    """Make a transformer small, for fine-tuning on a small board.

    MLP Fusion (ICML 2023) makes MLPs narrow: a few neurons stand for all, in the output and in the
    gradients. It takes dense MLPs (BERT, GPT-2, T5 …), gated ones (Llama, Qwen, ModernBERT …) and
    mixtures of experts (Mixtral, OLMoE …), found by their structure.

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
    if plot is not None:
        from edgefuse.report.picture import check_picture

        if not find_method(method, options).measures:
            raise InputError(
                f"--plot draws errors on text, which {method} does not measure", "Drop it"
            )
        if options["calibration"] is None and options["tune_text"] is None:
            raise InputError("--plot needs text to measure errors on", "Give --calibration a file")
        check_picture(plot)
    with progress_bars() as on_progress:
        record = edgefuse.compress(
            model,
            output,
            method=method,
            seed=seed,
            revision=revision,
            overwrite=overwrite,
            dry_run=dry_run,
            on_progress=on_progress,
            **options,
        )
    if as_json:
        what = {"dry_run": True} if dry_run else {"output": str(output)}
        print_json({**what, "compression": record})
    else:
        show_record(record, None if dry_run else output)
    if plot is not None and not dry_run:
        from edgefuse.report.fidelity_plot import plot_fidelity

        plot_fidelity(record, plot)
