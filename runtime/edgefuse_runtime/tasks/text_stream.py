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


def part_before(stops: Sequence[str], text: str) -> str:
    """The part of a text before the first of some texts; all of it where there is none."""
    ends = [end for stop in stops if (end := text.find(stop)) >= 0]
    return text[: min(ends, default=len(text))]


def stream_before(stops: Sequence[str], pieces: Iterable[str]) -> Iterator[str]:
    """Give the pieces of a text that are before the first of some texts.

    What such a text may begin with is held back until it is known how it goes on.

    Args:
        stops: Texts, none of them empty.
        pieces: Pieces, of which no more are asked for than it takes.
    """
    held = ""
    for piece in pieces:
        held += piece
        kept = part_before(stops, held)
        if kept != held:
            if kept:
                yield kept
            return
        begun = max((_begun(stop, held) for stop in stops), default=0)
        ready, held = held[: len(held) - begun], held[len(held) - begun :]
        if ready:
            yield ready
    if held:
        yield held


def _begun(stop: str, text: str) -> int:
    """Count of characters at a text's end that another text begins with."""
    longest = min(len(stop) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
