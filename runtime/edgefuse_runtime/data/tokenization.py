"""Text → token ids, by a tokenizer.json."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgefuse_devices.errors import DataError

_CHUNK = 1024

TokenIds = NDArray[np.int32]


def open_tokenizer(file: Path, *, length: int) -> Tokenizer:
    """Open a tokenizer.json: the tokenizer cuts texts at a length and does not pad.

    Args:
        file: The tokenizer.json.
        length: Longest text in tokens, special tokens included.
    """
    tokenizer = Tokenizer.from_file(str(file))
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


def tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> list[TokenIds]:
    """Token ids of every text, special tokens included.

    Texts go through in chunks: the library's encodings weigh far more than their ids.
    """
    rows: list[TokenIds] = []
    for start in range(0, len(texts), _CHUNK):
        encodings = tokenizer.encode_batch_fast(texts[start : start + _CHUNK])
        rows += [np.array(encoding.ids, np.int32) for encoding in encodings]
    return rows


def refuse_empty(rows: Sequence[TokenIds], name: str) -> None:
    """Refuse texts of which nothing is left as token ids, with which a model cannot do anything.

    A tokenizer without special tokens and without one for what it does not know drops unknown
    scripts.

    Args:
        rows: Token ids of each text.
        name: Name of the texts in messages: `NAME:2` is the second one.

    Raises:
        DataError: A text has no token id.
    """
    for number, row in enumerate(rows, start=1):
        if not len(row):
            raise DataError(
                f"{name}:{number} has no character that the model's tokenizer knows",
                "Remove the text, or begin from a model that reads its script",
            )
