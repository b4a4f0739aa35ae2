"""Initializers that live in a safetensors file beside the graph."""

from collections.abc import Collection, Sequence
from pathlib import Path

import onnx_ir as ir

from edgefuse_runtime.files.tensor_file import read_header


def as_inputs(model: ir.Model, names: Collection[str]) -> None:
    """Make initializers graph inputs, in place, so that no optimizer folds them away."""
    for name in sorted(set(model.graph.initializers) & set(names)):
        value = model.graph.initializers.pop(name)
        value.const_value = None
        model.graph.inputs.append(value)


def as_external_initializers(
    model: ir.Model, names: Sequence[str], file: Path, location: str
) -> None:
    """Make graph inputs initializers whose data are tensors of a safetensors file, in place.

    The file's tensors are raw bytes at offsets that its header gives: ONNX can name them as
    external data.

    Args:
        model: The graph whose inputs become initializers.
        names: The inputs, each a tensor of the file.
        file: The safetensors file.
        location: What the graph calls the file, relative to the .onnx file.
    """
    header, start = read_header(file)
    inputs = {value.name: value for value in model.graph.inputs}
    for name in names:
        value = inputs[name]
        model.graph.inputs.remove(value)
        begin, end = header[name]["data_offsets"]
        assert value.dtype is not None
        assert value.shape is not None  # of int4 the file knows bytes only
        value.const_value = ir.ExternalTensor(
            location,
            start + begin,
            end - begin,
            value.dtype,
            shape=value.shape,
            name=name,
            base_dir=file.parent,
        )
        model.graph.register_initializer(value)
