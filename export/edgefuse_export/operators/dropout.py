"""Dropout whose masks are a function of a key: the same in torch, in a graph, and after a resume.

An entry is kept or not by a hash of the key, the place in the model, and its own index (a counter-
based generator, as Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011, call it).
So a step's masks depend neither on threads nor on the steps before, and no state has to be saved.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import onnx_ir as ir
import torch
import torch.nn.functional as F
from onnxscript import opset21 as op
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn.modules.batchnorm import _BatchNorm

from edgefuse_devices.errors import InputError, ModelError
from edgefuse_runtime.graph.dropout import DROPOUT_KEY

_OWN = "model"
"""What a user says for the model's own probabilities."""
_BITS = 1 << 32
_HALF = 1 << 31
_STEP = 0x9E3779B1
_SITES = 0x85EBCA6B, 0xC2B2AE35
"""Odd numbers by which indices and places in the model are spread over all 32-bit numbers."""
_MIX = 0x7FEB352D, 0x846CA68B
_SHIFTS = 16, 15, 16
"""The hash of 32 bits that is called lowbias32 (Wellons, "Prospecting for Hash Functions")."""


@dataclass(frozen=True)
class Dropout:
    """How to drop while training.

    Attributes:
        probability: Probability that an entry is dropped, everywhere that the model can; None for
            the model's own probabilities.
    """

    probability: float | None = None

    @property
    def as_given(self) -> float | str:
        """What a user says for it."""
        return _OWN if self.probability is None else self.probability


@torch.library.custom_op("edgefuse::keep", mutates_args=())
def keep(like: Tensor, key: Tensor, site: int, probability: float) -> Tensor:
    """Which entries are kept.

    Args:
        like: A tensor of the wanted shape; its values do not count.
        key: Two numbers below 2³², int64 (2,).
        site: Number of the place in the model.
        probability: Probability that an entry is dropped.

    Returns:
        Truth values in the shape of `like`.
    """
    first, second = (key + site * torch.tensor(_SITES)) % _BITS
    value = (torch.arange(like.numel()) * _STEP + first) % _BITS
    value = value ^ (value >> _SHIFTS[0])
    value = value * _MIX[0] % _BITS
    value = value ^ (value >> _SHIFTS[1])
    value = (value + second) % _BITS
    value = value * _MIX[1] % _BITS
    value = value ^ (value >> _SHIFTS[2])
    signed: Tensor = (value + _HALF) % _BITS - _HALF
    return (signed >= _limit(probability)).reshape(like.shape)


@keep.register_fake
def _(like: Tensor, key: Tensor, site: int, probability: float) -> Tensor:  # noqa: ARG001
    return torch.empty_like(like, dtype=torch.bool)


def keep_in_onnx(like: Any, key: Any, site: int, probability: float) -> Any:
    """The same in ONNX, in 32-bit integers, whose products keep the lower bits."""

    def number(value: int) -> Any:
        tensor = ir.tensor([(value + _HALF) % _BITS - _HALF], dtype=ir.DataType.INT32)
        return op.Constant(value=tensor)

    def shifted(value: Any, bits: int) -> Any:
        unsigned = op.Cast(value, to=ir.DataType.UINT32)
        by = op.Constant(value=ir.tensor([bits], dtype=ir.DataType.UINT32))
        mixed = op.BitwiseXor(unsigned, op.BitShift(unsigned, by, direction="RIGHT"))
        return op.Cast(mixed, to=ir.DataType.INT32)

    offsets = op.Add(
        op.Cast(key, to=ir.DataType.INT32),
        op.Concat(*(number(site * spread) for spread in _SITES), axis=0),
    )
    first, second = (op.Gather(offsets, op.Constant(value_ints=[index])) for index in (0, 1))
    scalar = ir.DataType.INT32
    begin, by = (op.Constant(value=ir.tensor(n, dtype=scalar)) for n in (0, 1))
    index = op.Range(begin, op.Cast(op.Size(like), to=scalar), by)
    value = op.Add(op.Mul(index, number(_STEP)), first)
    value = op.Mul(shifted(value, _SHIFTS[0]), number(_MIX[0]))
    value = op.Add(shifted(value, _SHIFTS[1]), second)
    value = shifted(op.Mul(value, number(_MIX[1])), _SHIFTS[2])
    kept = op.GreaterOrEqual(value, number(_limit(probability)))
    return op.Reshape(kept, op.Shape(like))


def _limit(probability: float) -> int:
    """Signed 32-bit numbers below it are the wanted part of all."""
    return min(round(probability * _BITS), _BITS - 1) - _HALF


def with_dropout(loss: nn.Module, dropout: Dropout) -> nn.Module:
    """A loss module that takes a key after its batch, and drops by it.

    Its tensors and names are those of the loss module. What nobody trains stays as it is.

    Args:
        loss: The loss module; its model is in evaluation mode.
        dropout: How to drop.
    """
    kind = type(loss)

    def forward(self: nn.Module, *tensors: Tensor) -> Any:
        *batch, key = tensors
        with _dropping(self, key, dropout):
            return kind.forward(self, *batch)

    given = inspect.signature(kind.forward)
    taken = inspect.Parameter(DROPOUT_KEY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    forward.__signature__ = given.replace(  # type: ignore[attr-defined]
        parameters=[*given.parameters.values(), taken]
    )
    dropping = copy(loss)
    dropping.__class__ = type(kind.__name__, (kind,), {"forward": forward})
    return dropping


@contextmanager
def _dropping(module: nn.Module, key: Tensor, dropout: Dropout) -> Iterator[None]:
    """Let every dropout of a module take its mask from the key, in the order of their calls."""
    site = 0

    def drop(
        input: Tensor,  # noqa: A002 - torch's name
        p: float = 0.5,
        training: bool = True,  # noqa: FBT001, FBT002
        inplace: bool = False,  # noqa: ARG001, FBT001, FBT002
    ) -> Tensor:
        nonlocal site
        if not training:
            return input
        site += 1
        p = p if dropout.probability is None else dropout.probability
        if not p:
            return input
        kept = keep(input.detach(), key, site, p)
        return torch.where(kept, input / (1 - p), 0.0)

    modules = [one for one in module.modules() if _may_train(one)]
    with patch.object(F, "dropout", drop):
        for one in modules:
            one.training = True
        try:
            yield
        finally:
            for one in modules:
                one.training = False


def _may_train(module: nn.Module) -> bool:
    """Whether a module's own code may take its training branch: a stack's may skip layers there."""
    stacks = any(isinstance(child, nn.ModuleList) for child in module.children())
    return not stacks and not isinstance(module, _BatchNorm)


def check_dropout(program: ExportedProgram, name: str) -> None:
    """Check that a traced model drops something, and draws nothing else.

    Args:
        program: A trace of `with_dropout`.
        name: Name of the model's class.

    Raises:
        ModelError: It does not drop, or draws random numbers of its own while it trains.
    """
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    drawn = [target for target in called if any(word in target for word in _RANDOM)]
    if drawn:
        raise ModelError(
            f"{name} draws random numbers while it trains ({drawn[0]}), which no key reproduces",
            "Export it without --dropout",
        )
    if not any("edgefuse.keep" in target for target in called):
        raise ModelError(
            f"{name} has no dropout of its own: all its probabilities are 0",
            "Give one, as --dropout 0.1 does; if it has no place for any, leave --dropout out",
        )


_RANDOM = ("rand", "bernoulli", "uniform", "normal", "native_dropout", "aten.dropout")


def parse_dropout(text: str | float | None) -> Dropout | None:
    """Read what a user says of dropout.

    Args:
        text: `model` for the model's own probabilities, or a probability; None or 0 for none.

    Raises:
        InputError: It is neither.
    """
    if text is None:
        return None
    if text == _OWN:
        return Dropout()
    try:
        probability = float(text)
    except ValueError:
        probability = -1.0
    if not 0 <= probability < 1:
        raise InputError(
            f"--dropout {text} is neither `model` nor a probability below 1",
            "Give 0.1, say, or `model` for the model's own probabilities",
        )
    return Dropout(probability) if probability else None
