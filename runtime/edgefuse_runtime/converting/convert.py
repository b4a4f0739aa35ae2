"""Trained weights as what others run: plain ONNX, plain transformers, or a peft adapter."""

import shutil
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from msgspec import Struct

from edgefuse_devices.errors import InputError, InternalError, RunError
from edgefuse_devices.names import unknown
from edgefuse_runtime.bundle.bundle import MODEL_WITH_PAST, Bundle
from edgefuse_runtime.converting.peft_adapter import not_adapter, write_adapter
from edgefuse_runtime.engines.engine import Tensors
from edgefuse_runtime.files.output import new_directory
from edgefuse_runtime.files.replace import write_json
from edgefuse_runtime.files.tensor_file import write_tensors
from edgefuse_runtime.inference.bound import BoundGraph
from edgefuse_runtime.inference.continuation import Continuation
from edgefuse_runtime.inference.model import InferenceModel, inference_tensors, plain_tensors
from edgefuse_runtime.session import graph_errors, open_session
from edgefuse_runtime.tasks.task import Task

Format = Literal["onnx", "transformers", "peft"]

MARKER = "conversion.json"
WEIGHTS = "model.safetensors"
_SLACK = 16 * 2**20
_CHECKED_SHAPE = (2, 2)  # what every bundle takes: sequences are of two tokens at least


class Conversion(Struct, frozen=True, kw_only=True):
    """conversion.json: what a converted model is.

    Attributes:
        format: Name of what runs the model.
        source: The model that was exported.
        bundle_id: The bundle that was trained.
        task: What the model was trained for, with all that only that task has.
        inputs: Inputs of the graph, int64 of shape (batch, sequence).
        padding_id: Token id that pads `input_ids`.
        sequence_length: Longest sequence in tokens.
    """

    format: Format
    source: str
    bundle_id: str
    task: Task
    inputs: list[str]
    padding_id: int
    sequence_length: int


def convert(
    bundle: Bundle, trained: Tensors, output: Path, *, to: Format, overwrite: bool = False
) -> Conversion:
    """Write trained weights as a model for others, updates merged and P folded in.

    `onnx` gives model.onnx with its weights beside it in model.safetensors, which a bare
    `onnxruntime.InferenceSession` opens, and of a language model that keeps keys and values
    model_with_past.onnx too, with optimum's names; `transformers` gives what `from_pretrained`
    opens; `peft` gives the adapter alone, which `PeftModel.from_pretrained` puts onto the model it
    was made for.

    Args:
        bundle: The bundle that was trained.
        trained: Trained parameters by name.
        output: The directory to make.
        to: The format.
        overwrite: Whether to replace an earlier conversion that is there.

    Raises:
        InputError: There is no such format.
        OutputError: The directory is not empty, or the disk is too small.
        RunError: Plain transformers has no way to say what the model is, or peft what was trained.
    """
    if to not in get_args(Format):
        raise InputError(*unknown("format", to, get_args(Format)))
    if refusal := _refusal(bundle, to):
        others = [other for other in get_args(Format) if not _refusal(bundle, other)]
        raise RunError(refusal, f"Convert it with --to {' or --to '.join(others)}")
    manifest = bundle.manifest
    conversion = Conversion(
        format=to,
        source=manifest.model.source,
        bundle_id=bundle.id,
        task=manifest.task,
        inputs=manifest.inputs,
        padding_id=manifest.padding_id,
        sequence_length=manifest.sequence_length,
    )
    makes = {"onnx": inference_tensors, "transformers": plain_tensors}
    tensors = trained if to == "peft" else makes[to](bundle, trained)
    size = sum(tensor.nbytes for tensor in tensors.values())
    with new_directory(
        output, marker=MARKER, overwrite=overwrite, needed_bytes=size + _SLACK
    ) as directory:
        write_json(directory / MARKER, conversion)
        match to:
            case "peft":
                write_adapter(bundle, trained, directory)
            case "transformers":
                _copy_model_files(bundle, directory)
                write_tensors(directory / WEIGHTS, tensors, {"format": "pt"})
            case "onnx":
                shutil.copyfile(bundle.path / "model.onnx", directory / "model.onnx")
                if MODEL_WITH_PAST in bundle.manifest.files:
                    shutil.copyfile(bundle.path / MODEL_WITH_PAST, directory / MODEL_WITH_PAST)
                    _copy_model_files(bundle, directory)
                shutil.copyfile(bundle.path / "tokenizer.json", directory / "tokenizer.json")
                write_tensors(directory / WEIGHTS, tensors)
                _check_same_outputs(bundle, trained, directory)
    return conversion


def _copy_model_files(bundle: Bundle, directory: Path) -> None:
    """Copy the configuration and tokenizer files that the manifest lists."""
    folder = bundle.path / "model"
    for name in bundle.manifest.files:
        source = bundle.path / name
        if source.is_relative_to(folder):
            target = directory / source.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def _refusal(bundle: Bundle, to: Format) -> str:
    """Why what a bundle trains cannot be converted to a format; nothing where it can."""
    model, tuning = bundle.manifest.model, bundle.manifest.tuning
    match to:
        case "onnx":
            return ""
        case "transformers":
            return _not_plain(tuning.not_plain or model.not_plain)
        case "peft":
            return not_adapter(bundle) or _not_plain(model.not_plain)


def _not_plain(reason: str) -> str:
    return f"plain transformers {reason}" if reason else ""


def _check_same_outputs(bundle: Bundle, trained: Tensors, directory: Path) -> None:
    """Graphs find each weight by its place in the file: prove that they find the right ones."""
    manifest = bundle.manifest
    vocabulary = np.array(sorted(bundle.tokenizer().get_vocab().values()))
    feeds = manifest.task.random_feeds(np.random.default_rng(0), _CHECKED_SHAPE, vocabulary)
    expected = InferenceModel(bundle, trained, threads=1).run(feeds)
    session = open_session(directory / "model.onnx", threads=1)
    with graph_errors():
        outputs = session.run([*expected], {name: feeds[name] for name in manifest.inputs})
    found = dict(zip(expected, outputs, strict=True))
    if (with_past := directory / MODEL_WITH_PAST).exists():
        logits = Continuation(BoundGraph(with_past, {}, threads=1), padding_id=manifest.padding_id)
        expected["last logits"] = expected["logits"][:, -1]
        found["last logits"] = logits(feeds["input_ids"].tolist())
    for name, output in found.items():
        if not np.allclose(output, expected[name], rtol=1e-4, atol=1e-4):
            raise InternalError(
                f"the converted model's {name} differ by "
                f"{np.abs(output - expected[name]).max():.3g}"
            )
