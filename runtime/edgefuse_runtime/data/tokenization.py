"""Text → token ids, by a tokenizer.json."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

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
