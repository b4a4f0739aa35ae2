"""safetensors files read a tensor at a time and written in shards, never a whole model at once."""

import json
from collections.abc import Collection, Iterable
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import get_checkpoint_shard_files

from edgefuse.hub.errors import translate_errors
from edgefuse.hub.silence import silence_transformers
from edgefuse.hub.source import ModelSource, find_file

_SHARD_BYTES = 1 << 29  # about an MLP of a model of 7 billion parameters


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


def write_shards(
    directory: Path, tensors: Iterable[tuple[str, Tensor]], *, variant: str | None = None
) -> None:
    """Write a model's tensors one after the other, as the files that transformers loads.

    One file is called model.safetensors; where that would be too large to hold in memory, there are
    shards model-00001-of-00002.safetensors … and their index.

    Args:
        directory: Directory to write to.
        tensors: Names and tensors; floats of any type become float32.
        variant: What stands before the ending of the files' names, for files of which transformers
            is told `variant`.
    """
    shards: list[list[str]] = []
    total = 0

    def write(shard: dict[str, Tensor]) -> None:
        save_file(shard, directory / str(len(shards)), {"format": "pt"})
        shards.append(list(shard))
        shard.clear()

    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors:
        own = tensor.float() if tensor.is_floating_point() else tensor
        if shard and size + own.nbytes > _SHARD_BYTES:
            write(shard)
            size = 0
        shard[name] = own.detach().cpu().contiguous()
        size += own.nbytes
        total += own.nbytes
    write(shard)
    stem, ending = _add_variant(SAFE_WEIGHTS_NAME, variant).rsplit(".", maxsplit=1)
    count = len(shards)
    weight_map: dict[str, str] = {}
    for index, names in enumerate(shards):
        number = f"-{index + 1:05}-of-{count:05}" if count > 1 else ""
        (directory / str(index)).rename(directory / f"{stem}{number}.{ending}")
        weight_map |= dict.fromkeys(names, f"{stem}{number}.{ending}")
    if count > 1:
        content = {"metadata": {"total_size": total}, "weight_map": weight_map}
        index_file = directory / _add_variant(SAFE_WEIGHTS_INDEX_NAME, variant)
        index_file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _add_variant(name: str, variant: str | None) -> str:
    """`model.mine.safetensors` of `model.safetensors`, as transformers has it."""
    stem, ending = name.rsplit(".", maxsplit=1)
    return name if variant is None else f"{stem}.{variant}.{ending}"
