"""safetensors files, read and written a tensor at a time: no model is ever whole in memory."""

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from safetensors import safe_open
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import get_checkpoint_shard_files

from edgefuse.hub.errors import translate_errors
from edgefuse.hub.silence import silence_transformers
from edgefuse.hub.source import ModelSource, find_file

_DTYPES = {torch.float32: "F32", torch.int64: "I64", torch.int32: "I32", torch.bool: "BOOL"}
_LARGEST = 1 << 62


class TensorFiles:
    """The tensors of a model's safetensors files.

    Attributes:
        shapes: Shape of each tensor, by its name in the files.
    """

    def __init__(self, paths: Collection[Path]) -> None:
        """Read the names and shapes in these files."""
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._homes: dict[str, Path] = {}
        for path in paths:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118 - it is no mapping
                    self.shapes[name] = tuple(file.get_slice(name).get_shape())
                    self._homes[name] = path

    def read(self, name: str) -> Tensor:
        """Read a tensor as it is stored; its mapping ends with the last reference to it."""
        with safe_open(self._homes[name], "pt") as file:  # kept open, pages read would stay
            tensor: Tensor = file.get_tensor(name)
        return tensor


def find_tensor_files(source: ModelSource) -> TensorFiles | None:
    """Find a model's safetensors files, downloaded from the hub at need; None where there are none.

    Raises:
        ModelError: The files are broken or not complete.
    """
    with silence_transformers(), translate_errors(source.name):
        single = find_file(source, SAFE_WEIGHTS_NAME)
        if single is not None:
            return TensorFiles([Path(single)])
        index = find_file(source, SAFE_WEIGHTS_INDEX_NAME)
        if index is None:
            return None
        shards, _ = get_checkpoint_shard_files(  # type: ignore[no-untyped-call]
            source.name, index, revision=source.revision
        )
        return TensorFiles([Path(shard) for shard in shards])


class TensorFile:
    """A new safetensors file that takes one tensor after the other.

    Its header comes first and says where each tensor lies, so that room is kept for it; the format
    allows spaces at its end (https://huggingface.co/docs/safetensors, "Format").
    """

    def __init__(self, path: Path, names: Collection[str]) -> None:
        """Begin a file.

        Args:
            path: To write.
            names: Of all tensors that will be written.
        """
        unknown = {name: _entry("BOOL", [_LARGEST] * 4, _LARGEST, _LARGEST) for name in names}
        self._room = math.ceil(len(_header(unknown)) / 8) * 8
        self._entries: dict[str, dict[str, object]] = {}
        self._names = frozenset(names)
        self._end = 0
        self._file = path.open("wb")
        self._file.seek(8 + self._room)

    def write(self, name: str, tensor: Tensor) -> None:
        """Append a tensor; floats of any type as float32."""
        assert name in self._names - self._entries.keys(), name
        if tensor.is_floating_point():
            tensor = tensor.float()
        tensor = tensor.detach().cpu().contiguous()
        begin, self._end = self._end, self._end + tensor.nbytes
        self._entries[name] = _entry(_DTYPES[tensor.dtype], tensor.shape, begin, self._end)
        self._file.write(tensor.reshape(-1).numpy().data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Write the header, if every tensor was written, and close the file."""
        with self._file:
            if kind is None:
                assert self._entries.keys() == self._names
                self._file.seek(0)
                self._file.write(self._room.to_bytes(8, "little"))
                self._file.write(_header(self._entries).ljust(self._room))


def _entry(dtype: str, shape: Collection[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def _header(entries: Mapping[str, object]) -> bytes:
    return json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
