"""Safetensors files: mapped instead of read, and replaced whole or not at all."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from edgefuse_runtime.files.regular import check_regular, regular
from edgefuse_runtime.files.replace import replaced

METADATA = "__metadata__"
"""What a header calls the texts beside the tensors."""

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
    type, shape and byte range, then the tensors. safetensors' own reader checks it: the header's
    length, types, and that the tensors fill the file without a hole or an overlap.

    Returns:
        The header (`dtype`, `shape` and `data_offsets` by name, texts as `__metadata__`), and the
        byte from which offsets count.

    Raises:
        ValueError: It is no whole safetensors file, or has tensors of a type that is not used here.
        OSError: It is not there, or is no regular file.
    """
    check_regular(path)
    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file: {error}") from error
    with open(path, "rb", opener=regular) as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(start - 8))
    for name, tensor in header.items():
        if name != METADATA and tensor["dtype"] not in _TYPES:
            raise ValueError(f"{path} has {name} in {tensor['dtype']}, which is not used here")
    return header, start


def read_metadata(path: Path) -> dict[str, str]:
    """The texts that `replace_tensors` stored besides the tensors.

    Raises:
        ValueError: It is no whole safetensors file.
    """
    metadata: dict[str, str] = read_header(path)[0].get(METADATA, {})
    return metadata


def map_tensors(path: Path) -> dict[str, np.ndarray]:
    """Read-only views of a safetensors file that stay on disk until they are read.

    Raises:
        ValueError: It is no whole safetensors file.
    """
    header, start = read_header(path)
    header.pop(METADATA, None)
    if path.stat().st_size == start:
        return {name: np.zeros(t["shape"], _TYPES[t["dtype"]]) for name, t in header.items()}
    with open(path, "rb", opener=regular) as file:
        data = np.memmap(file, np.uint8, "r", offset=start)
    return {
        name: data[slice(*t["data_offsets"])].view(_TYPES[t["dtype"]]).reshape(t["shape"])
        for name, t in header.items()
    }


def digest_of(tensors: Mapping[str, np.ndarray], about: str) -> str:
    """SHA-256, in lower-case hexadecimal, of tensors and of a text about them.

    Names, types and shapes count as well as every byte.
    """
    found = hashlib.sha256(about.encode())
    for name in sorted(tensors):
        tensor = np.asarray(tensors[name], order="C")
        found.update(json.dumps([name, tensor.dtype.str, tensor.shape]).encode())
        found.update(tensor.reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def write_tensors(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file, whatever strides the tensors have.

    safetensors itself writes a transposed array's memory as it lies, under the array's shape.
    """
    contiguous = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    save_file(contiguous, path, dict(metadata) if metadata is not None else None)


def replace_tensors(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
    *,
    before: Path | None = None,
) -> None:
    """Write a safetensors file whole or not at all, for its owner alone.

    Args:
        path: The file to make or to replace.
        tensors: What it is to hold.
        metadata: Texts besides.
        before: Where to put the file that is replaced; None deletes it.

    Raises:
        OSError: The disk is full, for example; the old file is still there.
    """
    with replaced(path, private=True, before=before) as beside:
        write_tensors(beside, tensors, metadata)
