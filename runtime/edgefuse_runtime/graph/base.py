"""The frozen base in few bits: a matrix as codes, and a scale for every block of them.

    W[…, j] = codes[…, j] · scale[…, j // BLOCK]

or, as the form Q4_1 of GGUF files has it, with codes that begin at a minimum instead of at -8:

    W[…, j] = (codes[…, j] + 8) · scale[…, j // BLOCK] + minimum[…, j // BLOCK]

Graphs take `codes_of(W)`, `scale_of(W)` and `minimum_of(W)` in the place of W, and so does
frozen.safetensors hold them: int8 codes as they are; of int4 codes two in a byte, the first in its
lower half, as ONNX packs them.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

BLOCK = 32
"""Codes of a row that share a scale."""

Precision = Literal["int8", "int4"]

BITS: Mapping[Precision, int] = {"int8": 8, "int4": 4}

LOWEST = 8
"""What is added to int4 codes that count from a minimum up."""

_CODES, _SCALE, _MINIMUM = ".quantized", ".scale", ".minimum"
_ROWS = re.compile(r"(.+)\[(\d+):(\d+)\](.*)")


class Base(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How matrices that do not train are kept, and what that changes.

    The differences are those of the model before training, in torch, on a batch of random tokens.

    Attributes:
        precision: What codes are.
        block: Codes that share a scale.
        matrices: Count of the matrices that are kept so.
        float_loss: Loss of the model in float32.
        loss: Loss of the model whose matrices are codes times scales.
        multiplied: Matrices that decode.onnx multiplies by as they are, in products of 8 bits:
            their `Blocks.factors` are its initializers.
        output_error: ‖outputs − outputs in float32‖ / ‖outputs in float32‖.
    """

    precision: Precision
    block: int
    matrices: int
    float_loss: float
    loss: float
    output_error: float
    multiplied: list[str] = []


class Blocks(NamedTuple):
    """A matrix, or a stack of them, in few bits.

    Attributes:
        codes: int8 of the matrix's shape (…, columns), or uint8 of (…, columns / 2), two int4 each.
        scale: float16 of shape (…, columns / BLOCK).
        minimum: float16 of the same shape, with int4 codes; None where they are symmetric about 0.
    """

    codes: NDArray[Any]
    scale: NDArray[np.float16]
    minimum: NDArray[np.float16] | None = None

    @property
    def precision(self) -> Precision:
        """What the codes are."""
        return "int4" if self.codes.dtype == np.uint8 else "int8"

    def floats(self) -> NDArray[np.float32]:
        """The matrix, float32."""
        codes = unpacked(self.codes) if self.precision == "int4" else self.codes
        blocks = codes.reshape(*self.scale.shape, BLOCK).astype(np.float32)
        if self.minimum is not None:
            blocks += LOWEST
        blocks *= self.scale[..., None].astype(np.float32)
        if self.minimum is not None:
            blocks += self.minimum[..., None].astype(np.float32)
        return blocks.reshape(codes.shape)

    def named(self, name: str) -> dict[str, NDArray[Any]]:
        """The tensors that a file keeps in the place of the matrix of a name."""
        kept: dict[str, NDArray[Any]] = {codes_of(name): self.codes, scale_of(name): self.scale}
        return kept if self.minimum is None else kept | {minimum_of(name): self.minimum}

    @staticmethod
    def of(tensors: Mapping[str, NDArray[Any]], name: str) -> "Blocks":
        """Those of the matrix of a name, among a file's tensors."""
        minimum = tensors.get(minimum_of(name))
        return Blocks(tensors[codes_of(name)], tensors[scale_of(name)], minimum)

    def factors(self, name: str) -> dict[str, NDArray[Any]]:
        """What ONNX Runtime's MatMulNBits takes of the matrix of a name, (rows, columns).

        Codes that count from zero up, uint8 of (rows, blocks, bytes), and float32 scales; and what
        is added to each of a block's numbers, float32 of (blocks, rows), where they have a minimum.
        """
        sign = np.uint8(0x88 if self.precision == "int4" else 0x80)
        codes = (self.codes.view(np.uint8) ^ sign).reshape(*self.scale.shape, -1)
        scale = self.scale.astype(np.float32)
        factors: dict[str, NDArray[Any]] = {factor_of(name): codes, factor_scale_of(name): scale}
        if self.minimum is not None:
            added = self.minimum.astype(np.float32) + np.float32(LOWEST) * scale
            factors[factor_minimum_of(name)] = np.ascontiguousarray(added.T)
        return factors


def matrix_of(codes: str) -> str:
    """Name of the matrix whose codes have a name."""
    return codes.removesuffix(_CODES)


def factor_of(name: str) -> str:
    """Name of a matrix's codes as a product takes them."""
    return f"{name}.factor"


def factor_scale_of(name: str) -> str:
    """Name of a matrix's scales as a product takes them."""
    return f"{name}.factor_scale"


def factor_minimum_of(name: str) -> str:
    """Name of what a product adds for a matrix's minima."""
    return f"{name}.factor_minimum"


def codes_of(name: str) -> str:
    """Name of the codes of a matrix."""
    return f"{name}{_CODES}"


def scale_of(name: str) -> str:
    """Name of the scales of a matrix."""
    return f"{name}{_SCALE}"


def minimum_of(name: str) -> str:
    """Name of the minima of a matrix."""
    return f"{name}{_MINIMUM}"


def is_few_bits(name: str) -> bool:
    """Whether a tensor is what a matrix in few bits is made of."""
    return name.endswith((_CODES, _SCALE, _MINIMUM))


def rows_of(name: str, begin: int, end: int) -> str:
    """Name of some rows of a matrix, of which codes and scales have names too."""
    return f"{name}[{begin}:{end}]"


def whole_of(name: str) -> str:
    """Name of the matrix, or of its codes or scales, of which `rows_of` names some rows."""
    return _ROWS.sub(r"\1\4", name)


def tensor_or_rows(tensors: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any] | None:
    """The tensor of a name, or those of its rows that `rows_of` names; None where there is none."""
    tensor = tensors.get(whole_of(name))
    found = _ROWS.fullmatch(name)
    return tensor[int(found[2]) : int(found[3])] if tensor is not None and found else tensor


def packed(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Put two int4 codes, from -8 to 7, into every byte: (…, columns) → (…, columns / 2)."""
    halves = codes.view(np.uint8) & np.uint8(0x0F)
    joined: NDArray[np.uint8] = halves[..., ::2] | (halves[..., 1::2] << np.uint8(4))
    return joined


def unpacked(codes: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Take two int4 codes out of every byte: (…, bytes) → (…, 2 bytes)."""
    halves = np.stack([codes & 0x0F, codes >> 4], axis=-1)
    signed = (halves ^ 8).view(np.int8) - np.int8(8)
    return signed.reshape(*codes.shape[:-1], -1)


def in_floats(tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Tensors of a file with float32 matrices in the place of codes and scales."""
    matrices = [
        name.removesuffix(_CODES)
        for name in tensors
        if name.endswith(_CODES) and scale_of(name.removesuffix(_CODES)) in tensors
    ]
    blocks = {name: Blocks.of(tensors, name) for name in matrices}
    kept = {part for name, one in blocks.items() for part in one.named(name)}
    plain = {name: tensor for name, tensor in tensors.items() if name not in kept}
    return plain | {name: one.floats() for name, one in blocks.items()}
