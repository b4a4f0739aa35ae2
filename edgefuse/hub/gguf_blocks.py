"""The matrices of a GGUF file in the few bits that the file has them in.

A model that transformers made of such a file has the same numbers, though under other names, with
rows in another order or with matrices put together: a row is found by what is in it.
"""

from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgefuse_runtime.graph.base import BITS, BLOCK, LOWEST, Blocks, Precision, packed

_FORMS: dict[str, Precision] = {"Q4_0": "int4", "Q4_1": "int4", "Q8_0": "int8"}
"""Forms whose blocks are of 32 numbers with a scale of their own, and what their codes are."""

_WITH_MINIMUM = "Q4_1"
_FLOAT16 = 2  # bytes
_DIGEST = 16  # bytes

Bytes = NDArray[np.uint8]


class _Row(NamedTuple):
    """A row of a tensor."""

    form: str
    content: Bytes


class GGUFBlocks:
    """Finds matrices of a model among those of a GGUF file."""

    def __init__(self, path: Path, *, least: Precision) -> None:
        """Read the file's matrices.

        Args:
            path: The file.
            least: What codes are, or are of more bits than.
        """
        self._rows = {
            digest: row for digest, row in _rows_of(path) if BITS[_FORMS[row.form]] >= BITS[least]
        }

    def of(self, matrix: NDArray[np.float32]) -> Blocks | None:
        """The codes, scales and minima that the file has for a matrix, (rows, columns).

        None where it has none, or rows in more than one form.
        """
        if matrix.ndim != 2:  # a stack of experts is put together of many
            return None
        found = [self._rows.get(_digest(row)) for row in matrix]
        rows = [row for row in found if row is not None]
        forms = {row.form for row in rows}
        if len(rows) < len(found) or len(forms) != 1:
            return None
        (form,) = forms
        return _blocks(form, np.stack([row.content for row in rows]))


def _rows_of(path: Path) -> Iterator[tuple[bytes, _Row]]:
    """Every row of the tensors in a form that is known, by a digest of its floats."""
    from gguf import GGUFReader  # noqa: PLC0415 - an extra
    from gguf.quants import dequantize  # noqa: PLC0415

    for tensor in GGUFReader(path).tensors:
        form = tensor.tensor_type.name
        if form in _FORMS and tensor.data.ndim == 2:
            floats = dequantize(tensor.data, tensor.tensor_type)
            for content, row in zip(tensor.data, floats, strict=True):
                yield _digest(row), _Row(form, content)


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
