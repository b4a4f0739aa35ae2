"""Prompts and what is to be written after them: {"prompt": …, "completion": …}, a row a line."""

from typing import NamedTuple

from edgefuse_devices.errors import DataError
from edgefuse_runtime.data.cells import list_in
from edgefuse_runtime.data.rows import Row

PROMPT_ROW = 'A row looks like {"prompt": "turn the lamp on", "completion": "light_on"}'


class Prompt(NamedTuple):
    """A prompt and its completion.

    Attributes:
        place: File and line, as messages name it.
        prompt: Text before the completion; never blank.
        completion: Text to learn; never blank.
        references: Every good completion, the one to learn first.
    """

    place: str
    prompt: str
    completion: str
    references: tuple[str, ...]


def prompt_of(row: Row, form: str = PROMPT_ROW) -> Prompt:
    """Read a row with a prompt and its completion.

    A row may list further good completions in `references`, for figures that compare with all of
    them; without a `completion`, the first of them is the one to learn.

    Args:
        row: A row of a data file.
        form: Sentence that shows what a row looks like, the hint of errors.

    Raises:
        DataError: It lacks one of them, or one is blank or no text.
    """
    prompt = text_in(row, "prompt", form)
    references = _references(row, form)
    if "completion" in row.fields or not references:
        references = (text_in(row, "completion", form), *references)
    return Prompt(row.place, prompt, references[0], tuple(dict.fromkeys(references)))


def text_in(row: Row, field: str, form: str) -> str:
    """The text in a field of a row.

    Raises:
        DataError: There is none, it is blank, or it is something else than a text.
    """
    text = row.fields.get(field)
    if text is None:
        raise DataError(f'{row.place} has no "{field}"', form)
    if not isinstance(text, str):
        raise DataError(f'{row.place} has a "{field}" that is no text', form)
    if not text.strip():
        raise DataError(f'{row.place} has an empty "{field}"', "Remove the row, or give it a text")
    return text


def _references(row: Row, form: str) -> tuple[str, ...]:
    given = list_in(row, "references") or []
    if not isinstance(given, list) or not all(
        isinstance(one, str) and one.strip() for one in given
    ):
        raise DataError(f'{row.place} has "references" that are not a list of texts', form)
    return tuple(given)
