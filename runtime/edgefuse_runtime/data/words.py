"""Words and their first pieces: what a model says of a word is read at its first piece.

Words come as they are (`encode_words`), or are those that the tokenizer makes of a text
(`split_texts`). Special tokens belong to no word. What the tokenizer cuts off a long row is kept as
further windows, each of which a model can read.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from edgefuse_runtime.data.tokenization import TokenIds

_CHUNK = 1024

NO_WORD = -1

Span = tuple[int, int]
"""Indices of a text's first character and of the one behind the last."""


class Window(NamedTuple):
    """A part of a text, as long as the tokenizer lets a text be.

    Attributes:
        token_ids: Token ids, special tokens included, of shape (tokens,).
        words: Index of the word whose first piece a token is, of shape (tokens,); `NO_WORD` where
            it is none's.
    """

    token_ids: TokenIds
    words: NDArray[np.int32]


class Words(NamedTuple):
    """A text in words.

    Attributes:
        text: The text; words that came as a list with a space between two.
        spans: Where each word stands in the text.
        windows: Parts of the text in its order; more than one where it is too long for one.
        kept: Index of the window that is left where a long text is cut.
    """

    text: str
    spans: list[Span]
    windows: list[Window]
    kept: int

    @property
    def token_ids(self) -> TokenIds:
        """Token ids of the window that is kept, of shape (tokens,)."""
        return self.windows[self.kept].token_ids


def encode_words(tokenizer: Tokenizer, rows: Sequence[Sequence[str]]) -> list[Words]:
    """Tokenize rows of words.

    Args:
        tokenizer: The bundle's, which cuts long texts.
        rows: Words of each row. One of which the tokenizer drops every character has no piece.
    """
    found = []
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        encodings = tokenizer.encode_batch(chunk, is_pretokenized=True)
        for words, encoding in zip(chunk, encodings, strict=True):
            ends = list(accumulate(words, lambda end, word: end + 1 + len(word), initial=-1))[1:]
            spans = [(end - len(word), end) for word, end in zip(words, ends, strict=True)]
            parts, kept = _in_order(encoding)
            found.append(Words(" ".join(words), spans, _first_pieces(parts), kept))
    return found


def split_texts(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Words]:
    """Tokenize texts, and find the words that the tokenizer's pieces make up.

    A word begins where the tokenizer's own pre-tokenizer begins one, and after white space where it
    does not: BERT's cuts punctuation off, Llama's cuts at spaces. Digits in a row are one word,
    even where it cuts between them.

    Args:
        tokenizer: The bundle's, which cuts long texts.
        texts: The texts.
    """
    found = []
    for start in range(0, len(texts), _CHUNK):
        chunk = texts[start : start + _CHUNK]
        for text, encoding in zip(chunk, tokenizer.encode_batch(chunk), strict=True):
            parts, kept = _in_order(encoding)
            spans, windows = _words_of(text, parts)
            found.append(Words(text, spans, windows, kept))
    return found


def _in_order(encoding: Encoding) -> tuple[list[Encoding], int]:
    """The part of a text that is left and those that were cut off, and the index of the former."""
    parts = [encoding, *encoding.overflowing]
    order = sorted(range(len(parts)), key=lambda index: _beginning(parts[index]))
    return [parts[index] for index in order], order.index(0)


def _beginning(part: Encoding) -> tuple[int, int]:
    places = zip(part.word_ids, part.offsets, strict=True)
    return next(((word, start) for word, (start, _) in places if word is not None), (0, 0))


def _first_pieces(parts: Iterable[Encoding]) -> list[Window]:
    windows, last = [], NO_WORD
    for part in parts:
        words = np.full(len(part.ids), NO_WORD, np.int32)
        for position, word in enumerate(part.word_ids):
            if word is not None and word != last:
                words[position] = last = word
        windows.append(Window(np.array(part.ids, np.int32), words))
    return windows


class _Piece(NamedTuple):
    """A piece of a text that is no special token.

    Attributes:
        window: Index of the window that has it.
        position: Index in the window.
        unit: Index of what the pre-tokenizer made.
        start: Index of the first character that is no white space; `end` where all are.
        end: Index of the character behind the last.
        spaced: Whether it begins with white space.
    """

    window: int
    position: int
    unit: int
    start: int
    end: int
    spaced: bool


def _words_of(text: str, parts: Sequence[Encoding]) -> tuple[list[Span], list[Window]]:
    spans: list[Span] = []
    windows = [
        Window(np.array(part.ids, np.int32), np.full(len(part.ids), NO_WORD, np.int32))
        for part in parts
    ]
    last: _Piece | None = None  # of the word before
    blank: _Piece | None = None  # white space right before, such as a space that is a piece
    for piece in _pieces(text, parts):
        if piece.start == piece.end:
            blank = piece
            continue
        if last is None or _begins_word(text, piece, last):
            own = blank is not None and blank.unit == piece.unit and not piece.spaced
            first = blank if own and blank is not None else piece
            windows[first.window].words[first.position] = len(spans)
            spans.append((piece.start, piece.end))
        else:
            spans[-1] = (spans[-1][0], max(spans[-1][1], piece.end))
        last, blank = piece, None
    return spans, windows


def _pieces(text: str, parts: Sequence[Encoding]) -> Iterable[_Piece]:
    for window, part in enumerate(parts):
        places = zip(part.word_ids, part.offsets, strict=True)
        for position, (unit, (start, end)) in enumerate(places):
            if unit is not None:
                begin = end - len(text[start:end].lstrip())
                yield _Piece(window, position, unit, begin, end, begin > start)


def _begins_word(text: str, piece: _Piece, last: _Piece) -> bool:
    if piece.start < last.end:  # both have bytes of one character
        return False
    gap = text[last.end : piece.start]
    if piece.spaced or any(map(str.isspace, gap)):
        return True
    return piece.unit != last.unit and not (
        text[last.end - 1].isdigit() and text[piece.start].isdigit()
    )


__all__ = ["NO_WORD", "Span", "Window", "Words", "encode_words", "split_texts"]
