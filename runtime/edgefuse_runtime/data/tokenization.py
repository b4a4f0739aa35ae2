"""Text → token ids, by a tokenizer.json."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgefuse_devices.errors import BundleError, DataError
from edgefuse_runtime.data.chunks import chunks

TokenIds = NDArray[np.int32]

TYPE_IDS = "token_type_ids"
"""The graphs' input that tells the texts of a pair apart, (batch, tokens)."""


def open_tokenizer(file: Path, *, length: int) -> Tokenizer:
    """Open a tokenizer.json: the tokenizer cuts texts at a length and does not pad.

    Args:
        file: The tokenizer.json.
        length: Longest text in tokens, special tokens included.

    Raises:
        BundleError: The library cannot read it.
    """
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library's own, which has no other base
        raise BundleError(
            f"{file} is no tokenizer, or one of a newer version: {error}",
            "Copy the bundle again, or export it anew",
        ) from error
    side = (tokenizer.truncation or {}).get("direction", "right")
    limit_length(tokenizer, length, side)
    return tokenizer


def limit_length(tokenizer: Tokenizer, length: int, side: str) -> None:
    """Let a tokenizer cut texts and not pad them, in place.

    Args:
        tokenizer: The tokenizer to change.
        length: Most tokens of a text, special ones included.
        side: The end of a text that is cut off: `right` or `left`.
    """
    tokenizer.enable_truncation(length, direction=side)
    tokenizer.no_padding()


@contextmanager
def cut_at(tokenizer: Tokenizer, length: int | None) -> Iterator[None]:
    """Let a tokenizer cut texts shorter than it does, for a while.

    Args:
        tokenizer: A tokenizer that cuts texts.
        length: Most tokens of a text; None, or more than its own, for its own.
    """
    own = tokenizer.truncation
    assert own is not None
    if length is not None and length < own["max_length"]:
        tokenizer.enable_truncation(**{**own, "max_length": length})
    try:
        yield
    finally:
        tokenizer.enable_truncation(**own)


def tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> list[TokenIds]:
    """Token ids of every text, special tokens included.

    Texts go through in chunks: the library's encodings weigh far more than their ids.
    """
    rows: list[TokenIds] = []
    for some in chunks(texts, len):
        encodings = tokenizer.encode_batch_fast(some)
        rows += [np.array(encoding.ids, np.int32) for encoding in encodings]
    return rows


class PairIds(NamedTuple):
    """A tokenized pair of texts.

    Attributes:
        token_ids: Token ids of both, special tokens included, of shape (tokens,).
        type_ids: Which text each token is of, as the tokenizer has it, of shape (tokens,).
    """

    token_ids: TokenIds
    type_ids: TokenIds


def tokenize_pairs(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]) -> list[PairIds]:
    """Token ids of every pair; of one that is too long, the longer text is cut first.

    Raises:
        DataError: The tokenizer cuts pairs at a length that leaves no token for one of the texts.
    """
    length = (tokenizer.truncation or {}).get("max_length")
    special = tokenizer.num_special_tokens_to_add(is_pair=True)
    if length is not None and length < special + 2:
        raise DataError(
            f"A sequence of {length} tokens, {special} of them special, has no room for two texts",
            f"Export with --sequence-length {special + 2} or more",
        )
    rows: list[PairIds] = []
    for some in chunks(pairs, lambda pair: len(pair[0]) + len(pair[1])):
        encodings = tokenizer.encode_batch_fast(some)
        rows += [
            PairIds(np.array(encoding.ids, np.int32), np.array(encoding.type_ids, np.int32))
            for encoding in encodings
        ]
    return rows


def refuse_empty(rows: Sequence[TokenIds], name: str) -> None:
    """Refuse texts without a token, as `refuse_tokenless`; `NAME:2` is the second of them."""
    refuse_tokenless(rows, [f"{name}:{number}" for number in range(1, len(rows) + 1)])


def refuse_tokenless(rows: Sequence[TokenIds], places: Sequence[str]) -> None:
    """Refuse texts of which nothing is left as token ids, with which a model cannot do anything.

    A tokenizer without special tokens and without one for what it does not know drops unknown
    scripts.

    Args:
        rows: Token ids of each text.
        places: Where each text stands, as messages name it.

    Raises:
        DataError: A text has no token id.
    """
    for row, place in zip(rows, places, strict=True):
        if not len(row):
            raise DataError(
                f"{place} has no character that the model's tokenizer knows",
                "Remove the text, or begin from a model that reads its script",
            )
