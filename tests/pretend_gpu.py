"""A GPU that is none: its tensors are the processor's, and to mix both is an error as on a GPU.

torch's own way of writing a backend in Python takes every operation on the device, and lets the
processor do it. What it cannot show is a GPU's arithmetic. Run as a module, it compresses models
there: `python -m tests.pretend_gpu`, jobs as JSON on standard input.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from transformers.cache_utils import DynamicLayer

from edgefuse.compression import fusion_plan, streaming
from edgefuse.compression.compress import compress

NAME = "pretend"
_MAY_MIX = {"copy_", "_copy_from", "index", "index_put_", "_index_put_impl_"}  # as CUDA's
_operations = [0]
_library: list[torch.library.Library] = []


def pretend_gpu() -> torch.device:
    """The device. It is registered for the whole process, before torch's first backward pass."""
    if not _library:
        _setup_privateuseone_for_python_backend(NAME)
        library = torch.library.Library("_", "IMPL")
        library.fallback(lambda op, *args, **kwargs: _compute(op, args, kwargs), "PrivateUse1")
        aten = torch.library.Library("aten", "IMPL")
        for name in ("arange", "arange.start", "arange.start_step"):  # they resize an empty tensor
            aten.impl(name, _arange, "PrivateUse1")
        _library.extend((library, aten))
    return torch.device(NAME)


def _arange(*args: Any, **kwargs: Any) -> Tensor:
    return _Pretended(torch.arange(*args, **kwargs | {"device": "cpu"}))


class _Pretended(torch.Tensor):
    """A tensor of the device.

    Attributes:
        raw: Its numbers.
    """

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> Self:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            raw.shape,
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=torch.device(NAME, 0),
        )
        made.raw = raw
        return made

    def tolist(self) -> Any:
        """What torch refuses to subclasses."""
        return self.raw.tolist()

    @classmethod
    def __torch_dispatch__(
        cls,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return _compute(func, args, dict(kwargs or {}))


def _compute(op: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    _operations[0] += 1
    name = op._schema.name.removeprefix("aten::")
    tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor) and one.ndim]
    kinds = {isinstance(tensor, _Pretended) for tensor in tensors}
    assert len(kinds) < 2 or name in _MAY_MIX, f"{name} mixes tensors of two devices"
    leaves = "device" in kwargs and torch.device(kwargs["device"]).type == "cpu"
    given = tree_map_only(_Pretended, lambda tensor: tensor.raw, (tuple(args), kwargs))
    if "device" in kwargs:
        given[1]["device"] = torch.device("cpu")
    if name == "histc":  # of whole numbers a GPU's alone
        given[0][0].data = given[0][0].float()
    result = op(*given[0], **given[1])
    if leaves:
        return result
    if isinstance(result, Tensor) and (target := _written(op, args, kwargs)) is not None:
        assert target.shape == result.shape, f"{name} resizes a tensor, and that is not pretended"
        return target
    return tree_map_only(Tensor, _Pretended, result)


def _written(op: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The tensor that an operation in place, or with `out`, writes to and gives back."""
    names = [argument.name for argument in op._schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    for argument in op._schema.arguments:
        if argument.alias_info is not None and argument.alias_info.is_write:
            target: Tensor | None = given.get(argument.name)
            return target
    return None


def _begin_cache(self: DynamicLayer, keys: Tensor, values: Tensor) -> None:
    """Without `torch.tensor([], device=…)`, which goes to the device past any backend in Python."""
    self.dtype, self.device = keys.dtype, keys.device
    self.keys, self.values = keys.new_empty(0), values.new_empty(0)
    self.is_initialized = True


def main() -> None:
    """Do jobs: `model`, `output`, and options of `compress`; print how much each did there."""
    pretend_gpu()
    DynamicLayer.lazy_initialization = _begin_cache
    fusion_plan.fastest = streaming.fastest = pretend_gpu
    done = {}
    for job in json.load(sys.stdin):
        before = _operations[0]
        options = job["options"]
        options |= {
            name: Path(options[name]) for name in ("calibration", "tune_text") if name in options
        }
        compress(job["model"], Path(job["output"]), ratio=0.5, **options)
        done[job["output"]] = _operations[0] - before
    print(json.dumps(done))


if __name__ == "__main__":
    main()
