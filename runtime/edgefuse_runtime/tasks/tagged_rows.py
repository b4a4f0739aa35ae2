"""Rows of tagged words, or of texts with entities.

    {"tokens": ["Ada", "Lovelace", "lives"], "tags": ["B-person", "I-person", "O"]}
    {"text": "Ada Lovelace lives", "entities": [{"start": 0, "end": 12, "label": "person"}]}

In a cell of a CSV file a list is JSON, or has a space between two entries.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from edgefuse_devices.errors import DataError
from edgefuse_runtime.data.cells import list_in
from edgefuse_runtime.data.rows import Row, read_rows
from edgefuse_runtime.data.texts import refuse_pair
from edgefuse_runtime.data.words import Span
from edgefuse_runtime.tasks.tagging import OUTSIDE

FORM = (
    'A row looks like {"tokens": ["Ada", "lives"], "tags": ["B-person", "O"]}, or like '
    '{"text": "Ada lives", "entities": [{"start": 0, "end": 3, "label": "person"}]}'
)


class TaggedWords(NamedTuple):
    """Words with a tag each.

    Attributes:
        place: File and line.
        words: At least one word.
        tags: As many tags.
    """

    place: str
    words: list[str]
    tags: list[str]

    @property
    def size(self) -> int:
        """Count of the words' characters."""
        return sum(map(len, self.words))


class Entity(NamedTuple):
    """A part of a text and its type.

    Attributes:
        span: Characters of the text, at least one.
        label: The type.
    """

    span: Span
    label: str


class MarkedText(NamedTuple):
    """A text and the entities in it.

    Attributes:
        place: File and line.
        text: The text; never blank.
        entities: Entities in the order of the text, none overlapping another.
    """

    place: str
    text: str
    entities: list[Entity]

    @property
    def size(self) -> int:
        """Count of the text's characters."""
        return len(self.text)


def read_tagged_rows(path: Path) -> Iterator[TaggedWords | MarkedText]:
    """Read a file of tagged words, or of texts with entities, or of both.

    Raises:
        DataError: The file cannot be read, or a row is broken; the message names file and line.
    """
    return (
        TaggedWords(row.place, *_tagged_words(row))
        if row.fields.get("tokens") is not None
        else MarkedText(row.place, *_marked_text(row))
        for row in read_rows(path, FORM)
    )


def tags_of_rows(path: Path) -> frozenset[str]:
    """Every tag of a file's rows; an entity's are B- and I- of its type, and O.

    Raises:
        DataError: The file cannot be read, a row is broken, or there are fewer than two tags.
    """
    tags: set[str] = set()
    for row in read_tagged_rows(path):
        if isinstance(row, TaggedWords):
            tags.update(row.tags)
        else:
            kinds = {entity.label for entity in row.entities}
            tags |= {f"{prefix}-{kind}" for kind in kinds for prefix in "BI"} | {OUTSIDE}
    if len(tags) < 2:
        raise DataError(f"{path} has no tag but {tags.pop()}", "Give rows with other tags too")
    return frozenset(tags)


def words_of(row: Row) -> list[str]:
    """The words of a row.

    Raises:
        DataError: It has none, or one that is no text.
    """
    words = _listed(row, "tokens")
    for number, word in enumerate(words, start=1):
        if not isinstance(word, str):
            raise DataError(
                f"{row.place} has a token that is no text: {word!r}, number {number}", FORM
            )
    if not words:
        raise DataError(f"{row.place} has no tokens", "Remove the row, or give it some")
    return words


def _tagged_words(row: Row) -> tuple[list[str], list[str]]:
    words = words_of(row)
    tags = _listed(row, "tags")
    if len(tags) != len(words):
        raise DataError(
            f"{row.place} has {len(words)} tokens and {len(tags)} tags",
            "Give each token one tag, O where it is of no entity",
        )
    return words, [_tag(tag, row) for tag in tags]


def _tag(tag: object, row: Row) -> str:
    if isinstance(tag, str) and tag.strip():
        return tag
    if isinstance(tag, int) and not isinstance(tag, bool):
        return str(tag)
    raise DataError(
        f"{row.place} has a tag that is neither a text nor a whole number: {tag!r}", FORM
    )


def _listed(row: Row, name: str) -> list[Any]:
    """A list of a row, which a cell writes as JSON or with spaces between."""
    value = list_in(row, name)
    if isinstance(value, str):
        value = value.split()
    if not isinstance(value, list):
        raise DataError(f'{row.place} has no list of "{name}"', FORM)
    return value


def _marked_text(row: Row) -> tuple[str, list[Entity]]:
    text, given = row.fields.get("text"), list_in(row, "entities")
    if not isinstance(text, str):
        raise DataError(f'{row.place} has neither "tokens" nor a "text"', FORM)
    if not text.strip():
        raise DataError(f'{row.place} has an empty "text"', "Remove the row, or give it a text")
    refuse_pair(row)
    if not isinstance(given, list):
        raise DataError(f'{row.place} has a "text" and no list of "entities"', FORM)
    entities = sorted(_entity(one, text, row) for one in given)
    _check_apart(entities, text, row)
    return text, entities


class _Given(msgspec.Struct):
    """An entity as a row has it."""

    start: Annotated[int, Meta(ge=0)]
    end: int
    label: Annotated[str, Meta(min_length=1)]


def _entity(given: object, text: str, row: Row) -> Entity:
    try:
        entity = msgspec.convert(given, _Given)
    except msgspec.ValidationError as error:
        raise DataError(
            f"{row.place} has an entity without start, end and label: {given!r}", FORM
        ) from error
    start, end = entity.start, entity.end
    if not start < end <= len(text):
        raise DataError(
            f"{row.place} has an entity from {start} to {end} in a text of {len(text)} characters",
            "Count characters from 0; `end` is the index behind the last one",
        )
    if not text[start:end].strip():
        raise DataError(f"{row.place} has an entity of white space, from {start} to {end}", FORM)
    return Entity((start, end), entity.label)


def _check_apart(entities: Sequence[Entity], text: str, row: Row) -> None:
    for one, other in pairwise(entities):
        if other.span[0] < one.span[1]:
            raise DataError(
                f"{row.place} has entities that overlap: {text[slice(*one.span)]!r} and "
                f"{text[slice(*other.span)]!r}",
                "A word has one tag: keep one of the two",
            )
