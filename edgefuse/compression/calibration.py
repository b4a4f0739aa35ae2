"""Text that compression sees, and what reaches each MLP while the model reads it."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from edgefuse.compression.kept_inputs import KeptInputs
from edgefuse.compression.progress import READING
from edgefuse.hub.model import embedding_rows, position_count
from edgefuse.hub.tokenizer import ModelTokenizer
from edgefuse.mlps.inputs import watch_inputs
from edgefuse.mlps.mlp import MLP, mlps_in
from edgefuse_devices.errors import DataError, ModelError
from edgefuse_runtime.progress import OnProgress, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_TOKENS = 128
"""Tokens of a text; what is longer is cut."""

_TOKENS = 1 << 16  # of all texts: more no longer helps
_BYTES = 8 << 30  # of all inputs together, on the disk
_HELD_OUT_TOKENS = 1 << 13
_TOKENS_A_NEURON = 2  # for a fit
_BATCH_SIZE = 16
_SHUFFLED_BATCHES = 32  # within which texts of like length are put together


@dataclass(frozen=True)
class Texts:
    """Calibration text in two parts.

    Attributes:
        seen: Texts that methods, refit and teaching look at.
        held_out: Texts that only the errors are measured on, every tenth.
    """

    seen: Sequence[str]
    held_out: Sequence[str]


def split_texts(texts: Sequence[str]) -> Texts:
    """Hold out every tenth text, and at least one; a text that comes again counts once.

    Raises:
        DataError: There are fewer than two.
    """
    texts = list(dict.fromkeys(texts))
    if len(texts) < 2:
        raise DataError(
            "One calibration text is too few: errors are measured on texts that the fit has "
            "not seen",
            "Give at least two different ones, better some thousands",
        )
    step = min(10, len(texts))
    held_out = set(range(step - 1, len(texts), step))
    return Texts(
        [text for index, text in enumerate(texts) if index not in held_out],
        [texts[index] for index in sorted(held_out)],
    )


@torch.no_grad()
def collect_inputs(
    model: "PreTrainedModel",
    tokenizer: ModelTokenizer,
    mlps: Sequence[MLP],
    texts: Sequence[str],
    *,
    widths: Sequence[int] = (),
    held_out: bool = False,
    on_progress: OnProgress = silent,
) -> KeptInputs:
    """Run the model over texts and keep the inputs of its MLPs, on the disk.

    Texts come in a random order that is always the same, until there are 65,536 tokens (8,192 of
    held-out text) or 8 GiB of inputs, and enough for a fit; each is cut after `MAX_TOKENS` tokens.

    Args:
        model: Unfused, in evaluation mode.
        tokenizer: The model's tokenizer.
        mlps: MLPs of that model.
        texts: Texts to read.
        widths: Count of neurons that each MLP will be fitted with, if any.
        held_out: Whether the inputs are for errors, which need fewer tokens.
        on_progress: Called after each batch, with the tokens that are read.

    Returns:
        For each MLP its inputs (n, p), without padding; an expert's are those that the router
        sends it, perhaps none.

    Raises:
        OutputError: There is no room for them.
    """
    base = model.base_model  # whatever head there is would be computed for nothing
    watched = mlps_in(base, mlps)
    kept = KeptInputs([mlp.hidden_size for mlp in watched], device=model.device)
    indices = {mlp.name: index for index, mlp in enumerate(watched)}
    size = 0

    def see(mlp: MLP, inputs: Tensor) -> None:
        nonlocal size
        kept.append(indices[mlp.name], inputs)
        size += inputs.numel() * 4

    def determined() -> bool:
        return not widths or _shortage(kept.counts, mlps, widths) is None

    most = _HELD_OUT_TOKENS if held_out else _TOKENS
    read = 0
    with watch_inputs(watched, see):
        for batch in batches_within(model, tokenizer, texts, most, enough=determined):
            base(**batch)
            read += int(batch["attention_mask"].sum())
            on_progress(READING, min(read, most), most)
            if size >= _BYTES and determined():
                break
    return kept


def inputs_to_fit(
    inputs: KeptInputs,
    mlps: Sequence[MLP],
    widths: Sequence[int],
    texts: int,
    *,
    called: str = "calibration",
) -> KeptInputs:
    """Refuse text that does not determine the fits: two tokens a neuron, of experts together.

    Args:
        inputs: Inputs of each MLP (n, p).
        mlps: MLPs to fit.
        widths: Count of neurons that each MLP is fitted with.
        texts: Count of texts that were read.
        called: Name of the text in messages.

    Returns:
        The inputs; none for an expert whose own would not do: its weights alone decide then.

    Raises:
        DataError: It has fewer; the message says how many rows would do.
    """
    short = _shortage(inputs.counts, mlps, widths)
    if short is not None:
        rows = -(-_TOKENS_A_NEURON * short.neurons * texts // max(1, short.tokens))
        raise DataError(
            f"The {called} text has {short.tokens} tokens, too few to fit the {short.neurons} "
            f"neurons of {short.name}",
            f"Give at least {rows + max(1, rows // 5)} rows of such text, better some thousands",
        )
    counts = zip(inputs.counts, widths, strict=True)
    return inputs.without(
        {index for index, (n, width) in enumerate(counts) if n < _TOKENS_A_NEURON * width}
    )


class _Shortage(NamedTuple):
    """An MLP, or the experts of a layer, that get too few tokens."""

    name: str
    tokens: int
    neurons: int


def _shortage(
    counts: Sequence[int], mlps: Sequence[MLP], widths: Sequence[int]
) -> _Shortage | None:
    """The first that there is."""
    groups: dict[str, tuple[int, int]] = {}
    for mlp, tokens, width in zip(mlps, counts, widths, strict=True):
        name = mlp.name if mlp.expert is None else f"the experts of layer {mlp.layer}"
        before = groups.get(name, (0, 0))
        groups[name] = before[0] + tokens, before[1] + width
    for name, (tokens, neurons) in groups.items():
        if tokens < _TOKENS_A_NEURON * neurons:
            return _Shortage(name, tokens, neurons)
    return None


def batches_of(
    model: "PreTrainedModel", tokenizer: ModelTokenizer, texts: Sequence[str]
) -> Iterator[dict[str, Tensor]]:
    """What the model is called with to read texts; any first few are a sample of all."""
    longest = min(MAX_TOKENS, tokenizer.longest, _positions(model))
    rows = embedding_rows(model)
    padding = tokenizer.padding_id or 0
    if padding >= rows:  # it is masked, and so any other does
        padding = 0
    shuffled = random.Random(0).sample(texts, len(texts))  # noqa: S311 - no secret
    for batch in _of_like_length(shuffled):
        encoded = tokenizer.encode(batch, length=longest)
        token_ids = [torch.from_numpy(ids).long() for ids in encoded if len(ids)]
        if not token_ids:
            continue
        if (largest := max(int(ids.max()) for ids in token_ids)) >= rows:
            raise ModelError(
                f"The tokenizer gives token {largest}, and the model has embeddings for {rows}",
                "Use the tokenizer that the model was trained with",
            )
        mask = pad_sequence([torch.ones_like(ids) for ids in token_ids], batch_first=True)
        padded = pad_sequence(token_ids, batch_first=True, padding_value=padding)
        if len(set(mask.shape)) == 1:  # a square would not tell XLNet's order of axes
            mask, padded = F.pad(mask, (0, 1)), F.pad(padded, (0, 1), value=padding)
        inputs = {"input_ids": padded, "attention_mask": mask}
        if model.config.is_encoder_decoder:
            inputs |= {"decoder_input_ids": padded, "decoder_attention_mask": mask}
        yield {name: tensor.to(model.device) for name, tensor in inputs.items()}


def batches_within(
    model: "PreTrainedModel",
    tokenizer: ModelTokenizer,
    texts: Sequence[str],
    tokens: int = _TOKENS,
    *,
    enough: Callable[[], bool] = lambda: True,
) -> Iterator[dict[str, Tensor]]:
    """The first of `batches_of`, until there are so many tokens and they are enough."""
    for batch in batches_of(model, tokenizer, texts):
        yield batch
        tokens -= int(batch["attention_mask"].sum())
        if tokens <= 0 and enough():
            return


def _of_like_length(texts: Sequence[str]) -> Iterator[list[str]]:
    """Batches in the order of texts, roughly: less padding, and any part of them is a sample."""
    step = _BATCH_SIZE * _SHUFFLED_BATCHES
    for start in range(0, len(texts), step):
        part = sorted(texts[start : start + step], key=len)
        batches = [part[index : index + _BATCH_SIZE] for index in range(0, len(part), _BATCH_SIZE)]
        yield from random.Random(start).sample(batches, len(batches))  # noqa: S311 - no secret


def _positions(model: "PreTrainedModel") -> int:
    # RoBERTa's positions start behind the padding index; 2 fewer suit every architecture.
    positions = position_count(model.config)
    return MAX_TOKENS if positions is None else positions - 2
