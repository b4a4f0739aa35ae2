"""All ways of tuning, and the choice of one by its name and options."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from edgefuse.tuning.full import Full, FullWithoutEmbeddings
from edgefuse.tuning.head import Head
from edgefuse.tuning.way import Way
from edgefuse_devices.errors import InputError

WAYS: tuple[type[Way], ...] = (Full, FullWithoutEmbeddings, Head)


def find_way(name: str, options: Mapping[str, object] | None = None) -> Way:
    """The way of tuning of that name.

    Args:
        name: What `--tune` was given.
        options: Values by `family_field`, such as `lora_rank`; None stands for the default.

    Raises:
        InputError: There is no such way, or an option belongs to another one.
    """
    kind = next((way for way in WAYS if way.title == name), None)
    if kind is None:
        raise InputError(
            f"There is no way of tuning called {name!r}",
            f"Use one of {', '.join(way.title for way in WAYS)}",
        )
    given = {option: value for option, value in (options or {}).items() if value is not None}
    own = {f"{kind.family}_{field.name}": field.name for field in fields(_as_dataclass(kind))}
    for option in given.keys() - own.keys():
        raise InputError(f"--{option.replace('_', '-')} is no option of --tune {name}")
    return kind(**{own[option]: value for option, value in given.items()})


def _as_dataclass(kind: type[Way]) -> Any:
    return kind
