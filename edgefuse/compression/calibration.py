"""Calibration text, and what fusing does to a block's output on it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor

from edgefuse.compression.inputs import watch_inputs
from edgefuse.compression.mlp import MLP
from edgefuse.compression.neurons import FusedNeurons, Layer
from edgefuse_devices.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_TEXTS = 512
MAX_TOKENS = 128
_BATCH_SIZE = 16


class _Row(msgspec.Struct):
    text: str


def read_texts(path: Path) -> list[str]:
    """Read the first `MAX_TEXTS` texts of a file, blank lines skipped.

    Args:
        path: JSONL whose rows have a `text`, or `.txt` with a text per line.

    Raises:
        DataError: No such file, a row that is broken or has no text (file and line), or no text
            at all.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise DataError(
            f"{path} cannot be read: {reason}", "Give a .jsonl or .txt file of example texts"
        ) from error
    plain = path.suffix == ".txt"
    texts: list[str] = []
    for number, line in enumerate(lines, start=1):
        text = line if plain or not line.strip() else _text_of_row(line, path, number)
        if text.strip():
            texts.append(text)
        if len(texts) == MAX_TEXTS:
            break
    if not texts:
        raise DataError(f"{path} has no text", "Give a .jsonl or .txt file of example texts")
    return texts


def _text_of_row(line: str, path: Path, number: int) -> str:
    try:
        return msgspec.json.decode(line, type=_Row).text
    except msgspec.DecodeError as error:
        raise DataError(
            f'{path}, line {number} is no row with a "text": {error}',
            'Write each row as {"text": "…"}',
        ) from error


@torch.no_grad()
def output_errors(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    mlps: Sequence[MLP],
    fused: Sequence[FusedNeurons],
    texts: Sequence[str],
) -> list[float]:
    """‖y_fused − y‖ / ‖y‖ of each MLP, over all tokens that are not padding.

    y is the MLP's output before the residual. Both sides see the *unfused* model's hidden
    states, so that no layer is charged for another's error.

    Args:
        model: Unfused, in evaluation mode.
        tokenizer: The model's.
        mlps: Those to measure.
        fused: What would take each one's place.
        texts: Calibration texts; each is cut after `MAX_TOKENS` tokens.

    Returns:
        One for each MLP.
    """
    meters = {
        (mlp.layer, mlp.expert): _Meter(mlp.layer_view(), one)
        for mlp, one in zip(mlps, fused, strict=True)
    }
    with watch_inputs(mlps, lambda mlp, inputs: meters[mlp.layer, mlp.expert].see(inputs)):
        for batch in _batches(model, tokenizer, texts):
            model(**batch)
    return [meter.relative_error() for meter in meters.values()]


def _batches(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]
) -> Iterator[dict[str, Tensor]]:
    longest = min(MAX_TOKENS, tokenizer.model_max_length, _positions(model))
    by_length = sorted(texts, key=len)  # less padding
    for start in range(0, len(texts), _BATCH_SIZE):
        yield dict(
            tokenizer(
                by_length[start : start + _BATCH_SIZE],
                padding=True,
                truncation=True,
                max_length=longest,
                return_tensors="pt",
            )
        )


def _positions(model: "PreTrainedModel") -> int:
    # RoBERTa's positions start behind the padding index; 2 fewer suit every architecture.
    return int(getattr(model.config, "max_position_embeddings", MAX_TOKENS + 2)) - 2


class _Meter:
    """Sums squares over the calls of one MLP, of which ALBERT's has one per layer."""

    def __init__(self, layer: Layer, fused: FusedNeurons) -> None:
        self.layer = layer
        self.fused = fused
        self.difference = 0.0
        self.total = 0.0

    def see(self, inputs: Tensor) -> None:
        neurons, activation = self.layer.neurons, self.layer.activation
        y = F.linear(neurons.hidden(inputs, activation), neurons.down, self.layer.bias)
        y_fused = self.fused.output(inputs, activation, self.layer.bias)
        self.difference += float((y_fused - y).double().square().sum())
        self.total += float(y.double().square().sum())

    def relative_error(self) -> float:
        return float((self.difference / self.total) ** 0.5) if self.total else 0.0
