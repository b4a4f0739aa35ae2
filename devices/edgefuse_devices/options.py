"""Options that are fields: a class declares them with their help, and flags are made of that."""

import dataclasses
from typing import Any, NamedTuple, get_type_hints


class Option(NamedTuple):
    """An option of a class.

    Attributes:
        name: Name of the field.
        type: Annotation of the field, such as `int | None`.
        help: A sentence for people.
        default: The default as people read it; empty for none.
    """

    name: str
    type: Any
    help: str
    default: str


def option(default: Any, *, help: str, shown: str | None = None) -> Any:  # noqa: A002 - typer's name
    """Declare a dataclass's field as an option.

    Args:
        default: Value where none is given.
        help: A sentence for people.
        shown: The default as people read it, where it is computed later, as `2 × rank` is; empty
            for none.
    """
    text = str(default) if shown is None else shown
    return dataclasses.field(default=default, metadata={"help": help, "default": text})


def options_of(kind: type) -> list[Option]:
    """The options that a dataclass declares with `option`, in their order."""
    types = get_type_hints(kind)
    return [
        Option(field.name, types[field.name], field.metadata["help"], field.metadata["default"])
        for field in dataclasses.fields(kind)
        if "help" in field.metadata
    ]
