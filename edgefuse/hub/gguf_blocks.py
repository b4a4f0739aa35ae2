"""The matrices of a GGUF file in the few bits that the file has them in.

A model that transformers made of such a file has the same numbers, though under other names, with
rows in another order or with matrices put together: a row is found by what is in it.
"""

from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse_runtime.graph.base import BITS, BLOCK, LOWEST, Blocks, Precision, packed

_FORMS: dict[str, Precision] = {"Q4_0": "int4", "Q4_1": "int4", "Q8_0": "int8"}
"""Forms whose blocks are of 32 numbers with a scale of their own, and what their codes are."""

_WITH_MINIMUM = "Q4_1"
_FLOAT16 = 2  # bytes
_DIGEST = 16  # bytes

Bytes = NDArray[np.uint8]


class GGUFBlocks:
    """Finds matrices of a model among those of a GGUF file."""

    def __init__(self, path: Path, *, least: Precision) -> None:
        """Read the file's matrices.

        Args:
            path: The file.
            least: What codes are, or are of more bits than.
        """
        self._rows: dict[str, dict[bytes, Bytes]] = {}
        for form, digest, content in _rows_of(path):
            if BITS[_FORMS[form]] >= BITS[least]:
                self._rows.setdefault(form, {})[digest] = content

    def of(self, matrix: NDArray[np.float32]) -> Blocks | None:
        """The codes, scales and minima that the file has for a matrix, (rows, columns).

        None where it has none, or rows in more than one form.
        """
        if matrix.ndim != 2 or not len(matrix):  # a stack of experts is put together of many
            return None
        digests = [_digest(row) for row in matrix]
        for form, known in self._rows.items():
            if all(digest in known for digest in digests):
                return _blocks(form, np.stack([known[digest] for digest in digests]))
        return None


def _rows_of(path: Path) -> Iterator[tuple[str, bytes, Bytes]]:
    """Form, digest of the floats and content of every row of the tensors in a known form."""
    from gguf import GGUFReader  # noqa: PLC0415 - an extra
    from gguf.quants import dequantize  # noqa: PLC0415

    for tensor in GGUFReader(path).tensors:
        form = tensor.tensor_type.name
        if form in _FORMS and tensor.data.ndim == 2:
            floats = dequantize(tensor.data, tensor.tensor_type)
            for content, row in zip(tensor.data, floats, strict=True):
                yield form, _digest(row), content


def _digest(row: NDArray[Any]) -> bytes:
    return blake2b(row.tobytes(), digest_size=_DIGEST).digest()


def _blocks(form: str, rows: Bytes) -> Blocks:
    """Take rows of blocks apart: a scale, a minimum if the form has one, and the codes."""
    count, ahead = len(rows), _FLOAT16 * (2 if form == _WITH_MINIMUM else 1)
    blocks = rows.reshape(count, -1, ahead + BLOCK * BITS[_FORMS[form]] // 8)
    codes = np.ascontiguousarray(blocks[..., ahead:])
    floats = np.ascontiguousarray(blocks[..., :ahead]).view(np.float16)
    scale, *minimum = (np.ascontiguousarray(part) for part in np.moveaxis(floats, -1, 0))
    if _FORMS[form] == "int8":
        return Blocks(codes.reshape(count, -1).view(np.int8), scale)
    halves = np.concatenate([codes & 0x0F, codes >> 4], axis=-1)  # the first 16 numbers, the others
    signed = halves.astype(np.int8) - np.int8(LOWEST)
    return Blocks(packed(signed.reshape(count, -1)), scale, *minimum)
