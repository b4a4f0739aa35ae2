"""Text of token ids, as a whole or as the ids come."""

from collections.abc import Iterable, Iterator, Sequence

from tokenizers import Tokenizer

_HALF = "\ufffd"
"""What a decoder writes for bytes that are only a part of a character."""


def decode(tokenizer: Tokenizer, token_ids: Sequence[int]) -> str:
    """The text of token ids, special tokens left out."""
    return tokenizer.decode(list(token_ids), skip_special_tokens=True)


def stream_text(tokenizer: Tokenizer, token_ids: Iterable[int]) -> Iterator[str]:
    """Give the text of token ids piece by piece, never a part of a character.

    A token may change how the text before it is decoded, as a word's second piece does; so new
    tokens are decoded behind those of the piece before, and what is more than these is given. The
    pieces together are what `decode` makes of all.

    Args:
        tokenizer: Tokenizer that decodes.
        token_ids: Token ids, as they are made.
    """
    ids: list[int] = []
    begin = end = 0  # of the piece before: what was given last
    given = ""
    for token_id in token_ids:
        ids.append(token_id)
        before = decode(tokenizer, ids[begin:end])
        text = decode(tokenizer, ids[begin:])
        if len(text) > len(before) and text.startswith(before) and not text.endswith(_HALF):
            piece = text[len(before) :]
            begin, end = end, len(ids)
            given += piece
            yield piece
    whole = decode(tokenizer, ids)
    if whole != given and whole.startswith(given):
        yield whole[len(given) :]
