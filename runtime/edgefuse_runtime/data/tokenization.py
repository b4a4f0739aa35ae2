"""Text → token ids, with the bundle's own tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgefuse_runtime.bundle.bundle import Bundle
from edgefuse_runtime.data.dataset import Example

_CHUNK = 1024

TokenIds = NDArray[np.int32]


@dataclass(frozen=True)
class TokenizedExamples:
    """Rows that are ready for batching.

    Attributes:
        rows: Token ids of each row.
        labels: Class index of each row, of shape (rows,).
    """

    rows: list[TokenIds]
    labels: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.intp]:
        """Tokens of each row, of shape (rows,)."""
        return np.array([len(row) for row in self.rows], np.intp)

    @property
    def token_ids(self) -> NDArray[np.int64]:
        """Every token id that occurs, once."""
        return np.unique(np.concatenate(self.rows)).astype(np.int64)


def open_tokenizer(bundle: Bundle) -> Tokenizer:
    """Open the bundle's tokenizer, which cuts texts at the bundle's length and does not pad."""
    tokenizer = Tokenizer.from_file(str(bundle.path / "tokenizer.json"))
    side = (tokenizer.truncation or {}).get("direction", "right")
    limit_length(tokenizer, bundle.manifest.sequence_length, side)
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


def tokenize_examples(tokenizer: Tokenizer, examples: Sequence[Example]) -> TokenizedExamples:
    """Token ids and class indices of labelled texts."""
    return TokenizedExamples(
        rows=tokenize(tokenizer, [example.text for example in examples]),
        labels=np.array([example.label for example in examples], np.int64),
    )
