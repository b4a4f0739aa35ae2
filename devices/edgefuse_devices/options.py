"""Options that are fields: a class declares them with their help, and flags are made of that.

A dataclass declares an option with `option`; a msgspec struct by a `Meta` with a description in the
field's annotation.
"""

import dataclasses
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from edgefuse_devices.errors import InputError

Kind = TypeVar("Kind")


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


def option(
    default: Any,
    *,
    help: str,  # noqa: A002 - typer's name
    shown: str | None = None,
    type: Any = None,  # noqa: A002 - as `Option` has it
) -> Any:
    """Declare a dataclass's field as an option.

    Args:
        default: Value where none is given.
        help: A sentence for people.
        shown: The default as people read it, where it is computed later, as `2 × rank` is; empty
            for none.
        type: Type of what a flag takes, where the field takes more; None for the field's own.
    """
    text = str(default) if shown is None else shown
    return dataclasses.field(
        default=default, metadata={"help": help, "default": text, "type": type}
    )


def options_of(kind: type[Any]) -> list[Option]:
    """The options that a class declares, in their order."""
    if issubclass(kind, msgspec.Struct):
        return _options_of_struct(kind)
    types = get_type_hints(kind)
    return [
        Option(
            field.name,
            field.metadata["type"] or types[field.name],
            field.metadata["help"],
            field.metadata["default"],
        )
        for field in dataclasses.fields(kind)
        if "help" in field.metadata
    ]


def _options_of_struct(kind: type[msgspec.Struct]) -> list[Option]:
    options = []
    for field in msgspec.structs.fields(kind):
        if get_origin(field.type) is Annotated:
            annotation, *extras = get_args(field.type)
            texts = [extra.description for extra in extras if isinstance(extra, msgspec.Meta)]
            # A flag that turns something on needs no default in its help.
            default = "" if field.default is False else str(field.default)
            options += [Option(field.name, annotation, text, default) for text in texts if text]
    return options


def keyword_of(family: str, name: str) -> str:
    """The name of an option among those of all classes: `lora_rank`, whose flag is --lora-rank.

    Args:
        family: What the names of the class's options begin with; empty for nothing.
        name: Name of the field.
    """
    return f"{family}_{name}".lstrip("_").replace("-", "_")


def make(
    kind: type[Kind], given: Mapping[str, object], *, choice: str, family: str = "", **fixed: object
) -> Kind:
    """Make an object of the class that was chosen, with the options that were given.

    Args:
        kind: The class.
        given: Values of the options of all classes to choose from, by `keyword_of`; None stands
            for the default. A path may be a text, and several names one text with commas between.
        choice: The choice as it was made, `--tune lora` say.
        family: What the names of the class's options begin with.
        **fixed: Values of other fields.

    Raises:
        InputError: An option that was given is another class's.
    """
    own = {keyword_of(family, option.name): option for option in options_of(kind)}
    values = {keyword: value for keyword, value in given.items() if value is not None}
    for keyword in values.keys() - own.keys():
        raise InputError(
            f"--{keyword.replace('_', '-')} is no option of {choice}",
            "Leave it out, or choose what it belongs to",
        )
    read = {own[keyword].name: _read(own[keyword], value) for keyword, value in values.items()}
    return kind(**fixed, **read)


def refuse_options(given: Mapping[str, object], chosen: object) -> None:
    """Refuse options that are given beside an object, which has its own.

    Raises:
        InputError: There are some.
    """
    if given:
        raise InputError(
            f"{', '.join(given)} cannot be given beside {type(chosen).__name__}(…)",
            "Give options to it, or its name instead of it",
        )


def without_none(annotation: Any) -> Any:
    """`int` of `int | None`; any other annotation as it is."""
    if get_origin(annotation) not in (Union, UnionType):
        return annotation
    (kind,) = (part for part in get_args(annotation) if part is not NoneType)
    return kind


def separated(text: str) -> tuple[str, ...]:
    """The parts of a text with commas between."""
    return tuple(part.strip() for part in text.split(","))


def _read(option: Option, value: Any) -> Any:
    kind = without_none(option.type)
    if kind is Path:
        return Path(value) if isinstance(value, str | PathLike) else value
    if get_origin(kind) is tuple:
        return separated(value) if isinstance(value, str) else tuple(value)
    return value
