"""`edgefuse export`."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

import edgefuse
from edgefuse.cli._fields import Given, listed, with_fields
from edgefuse.cli._options import Json, Optimizer, Overwrite, Revision, Task
from edgefuse.cli._output import print_json, print_table, print_text
from edgefuse.cli._progress import progress_line
from edgefuse.report.table import Table
from edgefuse.tuning.ways import WAYS
from edgefuse_devices.errors import InputError
from edgefuse_export.tasks.registry import DEFAULT, WANTED_TASKS
from edgefuse_runtime.optimizers.registry import OPTIMIZERS, find_optimizer

if TYPE_CHECKING:
    from edgefuse_runtime.bundle.bundle import Bundle
    from edgefuse_runtime.bundle.manifest import Certificate

_MIB = 2**20
_LISTED = 6
_TUNE = listed("What trains  [default: full]", ((way.title, way.summary) for way in WAYS))


@with_fields(
    task_options=[("", task) for task in WANTED_TASKS],
    way_options=[(way.family, way) for way in WAYS],
    optimizer_options=[("", optimizer) for optimizer in OPTIMIZERS],
)
def export(
    model: Annotated[
        str,
        typer.Argument(
            help="A compressed model's directory, any model's, a peft adapter's, a GGUF file, or a "
            "hub name."
        ),
    ],
    output: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The directory to make.")],
    device: Annotated[
        str, typer.Option(help="The board: a name of `edgefuse devices`, or a profile's .toml.")
    ],
    *,
    task: Task = DEFAULT,
    task_options: Given,
    tune: Annotated[str, typer.Option(help=_TUNE, show_default=False)] = "full",
    way_options: Given,
    batch_size: Annotated[
        str, typer.Option(help="Rows in a batch, or auto: what the board's memory takes, up to 16.")
    ] = "auto",
    sequence_length: Annotated[
        int | None,
        typer.Option(
            help="Longest text in tokens; longer ones are cut.  [default: 128]",
            show_default=False,
        ),
    ] = None,
    optimizer: Optimizer = "adamw",
    optimizer_options: Given,
    dropout: Annotated[
        str | None,
        typer.Option(
            help="Share of activations that a training step drops, or model: the model's own.  "
            "[default: none]"
        ),
    ] = None,
    base: Annotated[
        str,
        typer.Option(help="How matrices that do not train are kept: float32, int8 or int4."),
    ] = "float32",
    engine: Annotated[
        str | None,
        typer.Option(
            help="The engine that will run the bundle: onnxruntime-layers, onnxruntime or "
            "onnxruntime-training.  [default: layer by layer for language models that are stacks "
            "of layers, and where the head trains alone, else onnxruntime]",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of a new head.")] = 0,
    revision: Revision = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Export a training graph for a board.

    Writes a bundle: loss, gradient and optimizer as ONNX, with weights and tokenizer. The board
    needs nothing but `pip install edgefuse[runtime]`. Ends with a check of the loss and of every
    gradient against torch.

        edgefuse export fused fused-bundle --device rpi5 --labels train.jsonl
    """
    rows = _batch_size(batch_size)
    with progress_line() as on_progress:
        bundle = edgefuse.export(
            model,
            output,
            device=device,
            task=task,
            tune=tune,
            batch_size=rows,
            sequence_length=sequence_length,
            optimizer=find_optimizer(optimizer, optimizer_options),
            dropout=dropout,
            base=base,
            engine=engine,
            seed=seed,
            revision=revision,
            overwrite=overwrite,
            on_progress=on_progress,
            **task_options,
            **way_options,
        )
    if as_json:
        print_json({"output": str(output), "id": bundle.id, "manifest": bundle.manifest})
    else:
        _show(bundle)


def _batch_size(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise InputError(
            f"--batch-size {text} is neither a count of rows nor auto",
            "Give 16, say, or leave it out for what the board's memory takes",
        )
    return int(text)


def _show(bundle: "Bundle") -> None:
    manifest = bundle.manifest
    memory, base = manifest.predicted_memory, manifest.base
    print_table(
        Table.of(
            ("what", "bundle"),
            [
                ("model", f"{manifest.model.source} ({manifest.model.architecture})"),
                ("parameters", f"{manifest.model.parameters:,}"),
                ("trained", f"{manifest.tuning.trained_parameters:,} ({manifest.tuning.method})"),
                ("base", f"{base.matrices} matrices in {base.precision}" if base else "float32"),
                ("dropout", "none" if (share := manifest.tuning.dropout) is None else share),
                ("task", manifest.task.summary),
                ("batch", f"{manifest.batch_size} rows of up to {manifest.sequence_length} tokens"),
                ("board", manifest.device.title),
                ("predicted memory", f"{memory.total / _MIB:,.0f} MiB"),
                ("  parameters", f"{(memory.parameters + memory.frozen) / _MIB:,.0f} MiB"),
                ("  gradients", f"{memory.gradients / _MIB:,.0f} MiB"),
                ("  optimizer", f"{memory.optimizer / _MIB:,.0f} MiB"),
                ("  activations", f"{memory.activations / _MIB:,.0f} MiB"),
            ],
            title=f"Exported {bundle.path}",
        )
    )
    certificate = manifest.certificate
    if certificate is None:
        print_text("Nothing was checked against torch.")
    else:
        _show_certificate(certificate)
    if base:
        print_text(
            f"The base in {base.precision} against float32, before training, on random tokens: "
            f"loss {base.loss:.4f} and {base.float_loss:.4f}, outputs "
            f"{100 * base.output_error:.2f} % apart."
        )
    if unused := manifest.tuning.without_gradient:
        more = f" and {len(unused) - _LISTED} more" if len(unused) > _LISTED else ""
        print_text(
            "Not trained, for the loss does not depend on them: "
            f"{', '.join(unused[:_LISTED])}{more}."
        )
    print_text(
        "Copy it to the board. Next, there:",
        f"  edgefuse finetune {quote(str(bundle.path))} {quote(f'{bundle.path}-run')} "
        "--train train.jsonl",
    )


def _show_certificate(certificate: "Certificate") -> None:
    shapes = [f"{rows} × {tokens}" for rows, tokens in (one.shape for one in certificate.checks)]
    gradients = (
        f"  ✓ all {certificate.gradients} gradients  differ by at most "
        f"{certificate.worst_gradient_error:.1e} ({certificate.worst_gradient})"
        if certificate.gradients
        else "    gradients           the engine does not give them out; their norm agrees"
    )
    print_text(
        f"Checked against torch at {', '.join(shapes[:-1])} and {shapes[-1]} tokens, the last row "
        f"half padding (traced at {certificate.traced_shape[0]} × {certificate.traced_shape[1]}):",
        f"  ✓ loss                differs by {certificate.loss_difference:.1e}",
        gradients,
        f"  ✓ outputs             differ by {certificate.output_difference:.1e}",
    )
