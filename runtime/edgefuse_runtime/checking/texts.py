"""Texts with their token ids: whether a board's tokenizer reads them as the model's own did."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct
from tokenizers import Tokenizer

from edgefuse_devices.errors import BundleError
from edgefuse_runtime.bundle.manifest import AGAIN

TEXTS = "proof/texts.json"


class CheckedText(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A text or two, and the ids that the model's own tokenizer makes of them.

    Attributes:
        text: The text.
        ids: Token ids, special tokens included, cut to the bundle's length.
        pair: The second text; None for none.
    """

    text: str
    ids: list[int]
    pair: str | None = None


class CheckedTexts(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Texts that tokenizers are likely to read differently.

    Attributes:
        tokenizers: Version of the tokenizers library that made the ids.
        texts: The texts.
    """

    tokenizers: str
    texts: list[CheckedText]


def write_texts(folder: Path, texts: CheckedTexts) -> None:
    """Write texts into a bundle's folder.

    Args:
        folder: The bundle's directory.
        texts: The texts.
    """
    file = folder / TEXTS
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(msgspec.json.encode(texts) + b"\n")


def read_texts(folder: Path) -> CheckedTexts:
    """Read the texts of a bundle.

    Raises:
        BundleError: The file is none that export wrote.
    """
    file = folder / TEXTS
    try:
        return msgspec.json.decode(file.read_bytes(), type=CheckedTexts)
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{file} cannot be read: {error}", AGAIN) from error


def differing(tokenizer: Tokenizer, texts: Sequence[CheckedText]) -> list[str]:
    """The texts of which a tokenizer makes other ids.

    Args:
        tokenizer: The bundle's tokenizer, which cuts texts at the bundle's length.
        texts: The texts with the ids that are expected.
    """
    made = ids_of(tokenizer, [(one.text, one.pair) for one in texts])
    return [one.text for one, ids in zip(texts, made, strict=True) if ids != one.ids]


def ids_of(tokenizer: Tokenizer, texts: Sequence[tuple[str, str | None]]) -> list[list[int]]:
    """Token ids of texts and of pairs of texts, special tokens included.

    Args:
        tokenizer: The tokenizer.
        texts: Texts, each with a second one or None.
    """
    return [list(tokenizer.encode(text, pair).ids) for text, pair in texts]
