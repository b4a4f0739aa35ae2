"""Safetensors files: mapped instead of read, and replaced whole or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from edgefuse_runtime.files.replace import replaced

_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I8": "|i1",
    "U8": "|u1",
    "BOOL": "?",
}


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """What a safetensors file holds, and where.

    The format: 8 bytes little-endian length of the header, the header as JSON with each tensor's
    type, shape and byte range, then the tensors.

    Returns:
        The header (`dtype`, `shape` and `data_offsets` by name, texts as `__metadata__`), and the
        byte from which offsets count.

    Raises:
        ValueError: It is no whole safetensors file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        if start > size:
            raise ValueError(f"{path} was cut short")
        header: dict[str, Any] = json.loads(file.read(start - 8))
    if not isinstance(header, dict):
        raise ValueError(f"{path} is no safetensors file")  # noqa: TRY004 - a file, no argument
    ends = [t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"]
    if start + max(ends, default=0) != size:
        raise ValueError(f"{path} was cut short")
    return header, start


def read_metadata(path: Path) -> dict[str, str]:
    """The texts that `replace_tensors` stored besides the tensors.

    Raises:
        ValueError: It is no whole safetensors file.
    """
    metadata: dict[str, str] = read_header(path)[0].get("__metadata__", {})
    return metadata


def map_tensors(path: Path) -> dict[str, np.ndarray]:
    """Read-only views of a safetensors file that stay on disk until they are read.

    Raises:
        ValueError: It is no whole safetensors file.
    """
    header, start = read_header(path)
    header.pop("__metadata__", None)
    if path.stat().st_size == start:
        return {name: np.zeros(t["shape"], _TYPES[t["dtype"]]) for name, t in header.items()}
    data = np.memmap(path, np.uint8, "r", offset=start)
    return {
        name: data[slice(*t["data_offsets"])].view(_TYPES[t["dtype"]]).reshape(t["shape"])
        for name, t in header.items()
    }


def write_tensors(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file, whatever strides the tensors have.

    safetensors itself writes a transposed array's memory as it lies, under the array's shape.
    """
    contiguous = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    save_file(contiguous, path, dict(metadata) if metadata is not None else None)


def replace_tensors(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file whole or not at all.

    Raises:
        OSError: The disk is full, for example; the old file is still there.
    """
    with replaced(path) as beside:
        write_tensors(beside, tensors, metadata)
