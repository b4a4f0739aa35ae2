"""Calibration text, and what fusing does to a block's output on it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import torch
from torch import Tensor, nn

from edgefuse.compression.mlp import DenseMLP
from edgefuse.compression.neurons import FusedNeurons
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
    blocks: Sequence[DenseMLP],
    fused: Mapping[int, FusedNeurons],
    texts: Sequence[str],
) -> dict[int, float]:
    """‖y_fused − y‖ / ‖y‖ of each block, over all tokens that are not padding.

    y is the block's output before the residual. Both sides see the *unfused* model's hidden
    states, so that no layer is charged for another's error.

    Args:
        model: Unfused, in evaluation mode.
        tokenizer: The model's.
        blocks: Those to measure.
        fused: By layer, what would take a block's place.
        texts: Calibration texts; each is cut after `MAX_TOKENS` tokens.

    Returns:
        By layer.
    """
    meters = {block.layer: _Meter(block, fused[block.layer]) for block in blocks}
    hooks = [
        handle
        for block in blocks
        for handle in (
            block.up.register_forward_hook(meters[block.layer].see_input),
            block.down.register_forward_hook(meters[block.layer].see_output),
        )
    ]
    try:
        for batch in _batches(model, tokenizer, texts):
            for meter in meters.values():
                meter.mask = batch["attention_mask"].bool()
            model(**batch)
    finally:
        for hook in hooks:
            hook.remove()
    return {layer: meter.relative_error() for layer, meter in meters.items()}


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
    """Sums squares over the calls of one block, of which ALBERT's has one per layer."""

    def __init__(self, block: DenseMLP, fused: FusedNeurons) -> None:
        self.block = block
        self.fused = fused
        self.mask = torch.empty(0, dtype=torch.bool)
        self.input = torch.empty(0)
        self.difference = 0.0
        self.total = 0.0

    def see_input(self, _module: nn.Module, args: tuple[Tensor, ...], _output: Tensor) -> None:
        self.input = args[0]

    def see_output(self, _module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> None:
        inputs = self.input[self.mask]
        y_fused = self.fused.output(inputs, self.block.activation, self.block.down.bias)
        y = output[self.mask]
        self.difference += float((y_fused - y).double().square().sum())
        self.total += float(y.double().square().sum())

    def relative_error(self) -> float:
        return float((self.difference / self.total) ** 0.5) if self.total else 0.0
