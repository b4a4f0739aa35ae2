"""`edgefuse convert`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from edgefuse.cli._output import print_json, print_text


def convert(
    model: Annotated[Path, typer.Argument(metavar="RUN", help="A run's best epoch, or a bundle.")],
    output: Annotated[Path, typer.Argument(help="The directory to make.")],
    to: Annotated[Literal["onnx", "transformers"], typer.Option(help="What will run it.")] = "onnx",
    bundle: Annotated[
        Path | None, typer.Option(help="The run's bundle, when it is not where it was.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier conversion that is there.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Turn a run into an inference model that needs no EdgeFuse.

    `onnx` runs in a bare onnxruntime.InferenceSession, `transformers` loads with from_pretrained.

        edgefuse convert run model --to onnx
    """
    from edgefuse_runtime.convert import convert as core
    from edgefuse_runtime.trained import open_trained

    opened, trained = open_trained(model, bundle=bundle)
    conversion = core(opened, trained, output, to=to, overwrite=overwrite)
    if as_json:
        print_json(conversion)
    elif to == "onnx":
        print_text(
            f"{output} runs in ONNX Runtime:",
            f'  session = onnxruntime.InferenceSession("{output}/model.onnx")',
        )
    else:
        print_text(
            f"{output} loads in transformers:",
            f'  AutoModelForSequenceClassification.from_pretrained("{output}")',
        )
