"""Flags of a command, made of the fields of the classes that it chooses from.

A class declares its options once, as fields (`edgefuse_devices.options.option`):

    @dataclass(frozen=True)
    class Lora(Way):
        rank: int | None = option(None, help="Rank of lora's updates.", shown="8")

and a command gets a flag for each, `--lora-rank`, in the place of a parameter, which receives what
was given, None where a flag was not:

    @with_fields(way_options=[("lora", Lora)])
    def export(tune: …, way_options: Given, seed: …) -> None:
        way = find_way(tune, way_options)  # {"lora_rank": None, …}

The modules of such classes are imported for `--help`: none of them imports torch and the like
outside its functions.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Annotated, Any, TypeAlias, get_origin

import typer
from msgspec import Struct

from edgefuse_devices.options import Option, keyword_of, options_of, separated, without_none
from edgefuse_runtime.tagged import name_of

Command: TypeAlias = Callable[..., None]
Given: TypeAlias = Mapping[str, object]
"""What a parameter receives that stands for the flags of classes: values by keyword."""


def with_fields(**parameters: Iterable[tuple[str, type]]) -> Callable[[Command], Command]:
    """Give a command a flag for every option of some classes.

    Args:
        **parameters: Classes by the parameter whose place their flags take, each with what its
            flags begin with: `lora` for `--lora-rank`, empty for `--rank`. Classes of one
            parameter may share an option, with defaults of their own.
    """
    groups = {name: _flags(kinds) for name, kinds in parameters.items()}

    def decorate(command: Command) -> Command:
        @wraps(command)
        def collect(**values: Any) -> None:
            given = {
                name: {flag.name: values.pop(flag.name) for flag in flags}
                for name, flags in groups.items()
            }
            command(**values, **given)

        shown: list[inspect.Parameter] = []
        own = inspect.signature(command)
        for name, parameter in own.parameters.items():
            keyword_only = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            shown += groups.get(name, [keyword_only])
        collect.__signature__ = own.replace(parameters=shown)  # type: ignore[attr-defined]
        return collect

    return decorate


def _flags(kinds: Iterable[tuple[str, type]]) -> list[inspect.Parameter]:
    options: dict[str, Option] = {}
    defaults: dict[str, dict[str, list[str]]] = {}
    for family, kind in kinds:
        for option in options_of(kind):
            keyword = keyword_of(family, option.name)
            first = options.setdefault(keyword, option)
            assert option._replace(default=first.default) == first, f"two options: {keyword}"
            of_default = defaults.setdefault(keyword, {})
            of_default.setdefault(option.default, []).append(_choice(kind))
    shown = {keyword: _defaults(of_default) for keyword, of_default in defaults.items()}
    return [
        _flag(keyword, option._replace(default=shown[keyword]))
        for keyword, option in options.items()
    ]


def _defaults(choices: Mapping[str, list[str]]) -> str:
    """Defaults as people read them: of all classes, or of which."""
    if len(choices) == 1:
        return next(iter(choices))
    return "; ".join(f"{default} with {', '.join(of)}" for default, of in choices.items())


def _choice(kind: type) -> str:
    """What a user calls a class."""
    return name_of(kind) if issubclass(kind, Struct) else kind.__name__.lower()


def listed(help: str, choices: Iterable[tuple[str, str]]) -> str:  # noqa: A002 - typer's name
    """Make the help of an option that lists what it may be.

    Args:
        help: A few words for people.
        choices: Names, each with its meaning.
    """
    lines = (f"- {name}: {meaning}" for name, meaning in choices)
    return "\n".join([help, "", *lines])


def _flag(name: str, option: Option) -> inspect.Parameter:
    default = f"  [default: {option.default}]" if option.default else ""
    settings: dict[str, Any] = {"help": f"{option.help}{default}", "show_default": False}
    kind, flags = without_none(option.type), []
    if get_origin(kind) is tuple:
        kind, settings["parser"], settings["metavar"] = str, separated, "<str>"
    if get_origin(kind) is list:  # a flag that may be given several times
        settings["metavar"] = "<str>"
    if option.type is bool:  # False unless it is given: there is nothing to turn off
        flags = [f"--{name.replace('_', '-')}"]
    annotation: Any = Annotated[kind | None, typer.Option(*flags, **settings)]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )
