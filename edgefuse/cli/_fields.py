"""Flags of a command, made of the fields of the classes that it chooses from.

A class declares its options once, as fields (`edgefuse_devices.options.option`):

    @dataclass(frozen=True)
    class Lora(Way):
        rank: int | None = option(None, help="Rank of lora's updates.", shown="8")

and a command gets a flag for each, `--lora-rank`, at the place that it names. It receives them as
keyword arguments, None where a flag was not given:

    @with_fields([("lora", Lora)], after="tune")
    def export(tune: …, seed: …, **options: object) -> None:
        way = find_way(tune, options)  # {"lora_rank": None, …}

The modules of such classes are imported for `--help`: none of them imports torch and the like
outside its functions.
"""

import inspect
from collections.abc import Callable, Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import typer

from edgefuse_devices.options import Option, options_of

Command = TypeVar("Command", bound=Callable[..., None])


def with_fields(kinds: Iterable[tuple[str, type]], *, after: str) -> Callable[[Command], Command]:
    """Give a command a flag for every option of some classes.

    Args:
        kinds: Classes, each with what its flags begin with: `lora` for `--lora-rank`, empty for
            `--rank`. Classes may share an option; they inherit it then.
        after: The parameter that the flags stand behind in the help.
    """
    options: dict[str, Option] = {}
    for family, kind in kinds:
        for option in options_of(kind):
            name = f"{family}_{option.name}".lstrip("_").replace("-", "_")
            assert options.setdefault(name, option) == option, f"two options are called {name}"
    flags = [_flag(name, option) for name, option in options.items()]

    def decorate(command: Command) -> Command:
        own = inspect.signature(command)
        parameters = []
        for parameter in own.parameters.values():
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            if parameter.name == after:
                parameters += flags
        command.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        return command

    return decorate


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
    kind, flags = _without_none(option.type), []
    if get_origin(kind) is tuple:
        kind, settings["parser"], settings["metavar"] = str, _separated, "<str>"
    if kind is bool:  # False unless it is given: there is nothing to turn off
        flags = [f"--{name.replace('_', '-')}"]
    annotation: Any = Annotated[kind | None, typer.Option(*flags, **settings)]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def _without_none(annotation: Any) -> Any:
    """`int` of `int | None`; any other annotation as it is."""
    if get_origin(annotation) not in (Union, UnionType):
        return annotation
    (kind,) = (part for part in get_args(annotation) if part is not NoneType)
    return kind


def _separated(text: str) -> tuple[str, ...]:
    """The parts of a text with commas between."""
    return tuple(part.strip() for part in text.split(","))
