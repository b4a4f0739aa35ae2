"""`edgefuse convert`."""

from typing import Annotated, Literal

import typer

import edgefuse_runtime
from edgefuse.cli._options import BundleOfRun, Json, OutputDirectory, Overwrite, RunOrBundle
from edgefuse.cli._output import print_json, print_text


def convert(
    model: RunOrBundle,
    output: OutputDirectory,
    to: Annotated[
        Literal["onnx", "transformers", "peft"], typer.Option(help="Format of the converted model.")
    ] = "onnx",
    bundle: BundleOfRun = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Turn a run into an inference model that needs no EdgeFuse.

    `onnx` runs in a bare onnxruntime.InferenceSession, `transformers` loads with from_pretrained,
    and `peft` is the adapter that --tune lora or prefix trained, for PeftModel.from_pretrained. The
    first two have updates merged and a fused model's multiplicities folded into the weights.

        edgefuse convert run model --to onnx
    """
    conversion = edgefuse_runtime.convert(model, output, to=to, bundle=bundle, overwrite=overwrite)
    if as_json:
        print_json(conversion)
    elif to == "onnx":
        print_text(
            f"{output} runs in ONNX Runtime:",
            f"  session = onnxruntime.InferenceSession({str(output / 'model.onnx')!r})",
        )
    elif to == "peft":
        print_text(
            f"{output} loads onto its base model, as plain transformers opens that:",
            f"  peft.PeftModel.from_pretrained(model, {str(output)!r})",
        )
    else:
        print_text(
            f"{output} loads in transformers:",
            f"  {conversion.task.auto_class}.from_pretrained({str(output)!r})",
        )
