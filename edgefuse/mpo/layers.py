"""Layers whose matrix is a chain of tensors: a central one and four auxiliary ones."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from edgefuse.compression.fused_linear import multiply
from edgefuse.mpo.contraction import TOKENS, Order, cheapest, rebuilding
from edgefuse.mpo.decomposition import CENTRAL, bonds_of, dimensions_of, rebuild
from edgefuse.mpo.dimensions import Dimensions


class Chain(nn.Module):
    """A matrix (I, J) as a chain.

    Attributes:
        rows: I; the chain's own may be more, and those are padding.
        auxiliary: T_1, T_2, T_4 and T_5.
    """

    def __init__(self, tensors: Sequence[Tensor], rows: int) -> None:
        """Make it from T_1 … T_5, which become its parameters."""
        super().__init__()
        self.rows = rows
        self._leader: list[Chain] = []  # in a list, or it would count as a part of this module
        self.put(tensors)

    def put(self, tensors: Sequence[Tensor]) -> None:
        """Take other tensors T_1 … T_5 of the same matrix, of any bonds."""
        self._leader.clear()
        self.register_parameter("central", nn.Parameter(tensors[CENTRAL]))
        self.auxiliary = nn.ParameterList([*tensors[:CENTRAL], *tensors[CENTRAL + 1 :]])
        for chosen in ("order", "looks_up"):  # by the bonds that were
            self.__dict__.pop(chosen, None)

    def follow(self, leader: "Chain") -> None:
        """Have another chain's central tensor, of the same shape, from now on."""
        del self.central
        self._leader = [leader]

    def __getattr__(self, name: str) -> Any:
        """T_3 (d_2, i_3, j_3, d_3) as `central`, whose ever it is."""
        if name == "central" and (leader := self.__dict__.get("_leader")):
            return leader[0].central
        return super().__getattr__(name)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """T_1 … T_5."""
        auxiliary = list(self.auxiliary)
        return (*auxiliary[:CENTRAL], self.central, *auxiliary[CENTRAL:])

    @property
    def dimensions(self) -> Dimensions:
        """Its local dimensions."""
        return dimensions_of(self.tensors)

    @property
    def bonds(self) -> tuple[int, ...]:
        """d_1 … d_4."""
        return bonds_of(self.tensors)

    @property
    def weight(self) -> Tensor:
        """The matrix (I, J), rebuilt, as models that ask for its type or device expect it."""
        return rebuild(self.tensors)[: self.rows]


class MPOLinear(Chain):
    """A linear layer.

    Attributes:
        in_features: J.
        out_features: I.
        bias: (I,), or None.
        multiplicity: Buffer (J,): P of a fused down-projection (see `FusedLinear`), or None.
        transposed: It is in the place of a `Conv1D`, whose matrix lies (J, I).
    """

    multiplicity: Tensor | None

    def __init__(
        self,
        tensors: Sequence[Tensor],
        bias: Tensor | None,
        *,
        multiplicity: Tensor | None = None,
        transposed: bool = False,
    ) -> None:
        """Make it from T_1 … T_5 of a matrix (I, J), and what the layer has besides."""
        dimensions = dimensions_of(tensors)
        super().__init__(tensors, dimensions.padded_rows)
        self.in_features, self.out_features = dimensions.column_count, dimensions.padded_rows
        self.bias = None if bias is None else nn.Parameter(bias)
        self.register_buffer("multiplicity", multiplicity)
        self.transposed = transposed

    @cached_property
    def order(self) -> Order:
        """How its chain meets activations."""
        return cheapest(self.dimensions, self.bonds)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's name
        """Map (…, J) to (…, I)."""
        if self.multiplicity is not None:
            input = input * self.multiplicity  # noqa: A001
        return self.order(input, self.tensors, self.bias)

    def plain(self) -> nn.Module:
        """The layer in whose place it is, with its matrix as it is now and P standalone."""
        weight = self.weight.detach()
        bias = None if self.bias is None else self.bias.detach()
        plain = _conv1d(weight, bias) if self.transposed else linear_of(weight, bias)
        holder = nn.Sequential(plain)
        if self.multiplicity is not None:
            multiply(holder, "0.weight", self.multiplicity, transposed=self.transposed)
        return holder[0]


class MPOEmbedding(Chain):
    """An embedding table.

    A row is a product of one slice of each tensor, taken at the digits of the row's number. Where
    that takes fewer multiplications for a batch than rebuilding the table, and the slices are no
    larger than it, rows are looked up so.

    Attributes:
        num_embeddings: I.
        embedding_dim: J.
        padding_idx: Row that gets no gradient from its tokens, or None.
    """

    def __init__(self, tensors: Sequence[Tensor], rows: int, padding_idx: int | None) -> None:
        """Make it from T_1 … T_5 of a table with `rows` rows."""
        super().__init__(tensors, rows)
        self.num_embeddings, self.embedding_dim = rows, self.dimensions.column_count
        self.padding_idx = padding_idx

    @cached_property
    def looks_up(self) -> bool:
        """Whether rows are made one by one."""
        table = self.dimensions.padded_rows * self.dimensions.column_count
        slices = TOKENS * self.central.numel() // self.central.shape[1]
        of_rows = TOKENS * _multiplications_of_a_row(self.dimensions, self.bonds)
        return slices <= table and of_rows < rebuilding(self.dimensions, self.bonds)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Embedding's name
        """Map row numbers (…) to rows (…, J)."""
        if not self.looks_up:
            return F.embedding(input, rebuild(self.tensors), padding_idx=self.padding_idx)
        digits = []
        rest = input
        for radix in reversed(self.dimensions.rows):
            digits.append(rest % radix)
            rest = rest // radix
        state: Tensor = self.central.new_ones(1, 1)  # (…, columns done, bond)
        for tensor, digit in zip(self.tensors, reversed(digits), strict=True):
            a, i, j, b = tensor.shape
            slices = F.embedding(digit, tensor.transpose(0, 1).reshape(i, -1))
            state = state @ slices.reshape(*input.shape, a, j * b)
            state = state.reshape(*input.shape, -1, b)
        return state.squeeze(-1)

    def plain(self) -> nn.Module:
        """The table as it is now."""
        table = nn.Embedding(
            self.num_embeddings, self.embedding_dim, padding_idx=self.padding_idx, device="meta"
        )
        table.weight = nn.Parameter(self.weight.detach())
        return table


def linear_of(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """The layer with these tensors, which may be on the meta device."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight)
    if bias is not None:
        linear.bias = nn.Parameter(bias)
    return linear


def _conv1d(weight: Tensor, bias: Tensor | None) -> Conv1D:
    assert bias is not None, "a Conv1D has one"
    conv: Conv1D = Conv1D(0, 0)  # type: ignore[no-untyped-call]
    conv.nf, conv.nx = weight.shape
    conv.weight, conv.bias = nn.Parameter(weight.T.contiguous()), nn.Parameter(bias)
    return conv


def _multiplications_of_a_row(dimensions: Dimensions, bonds: Sequence[int]) -> int:
    """From the left: (columns done, a) times (a, j b), tensor by tensor."""
    total, done = 0, 1
    for a, j, b in zip((1, *bonds), dimensions.columns, (*bonds, 1), strict=True):
        total += done * a * j * b
        done *= j
    return total
