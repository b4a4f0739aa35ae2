"""All ways of tuning, and the choice of one by its name and options."""

import re
from collections.abc import Mapping
from dataclasses import Field, fields
from typing import Any

from edgefuse.tuning.way import Way
from edgefuse.tuning.ways.adapter import Adapter
from edgefuse.tuning.ways.bitfit import BitFit
from edgefuse.tuning.ways.child import ChildD, ChildF
from edgefuse.tuning.ways.full import Full, FullWithoutEmbeddings
from edgefuse.tuning.ways.head import Head
from edgefuse.tuning.ways.last import Last
from edgefuse.tuning.ways.lora import Lora
from edgefuse.tuning.ways.mpo import Mpo
from edgefuse.tuning.ways.prefix import Prefix
from edgefuse_devices.errors import InputError
from edgefuse_devices.names import unknown

WAYS: tuple[type[Way], ...] = (
    Full,
    FullWithoutEmbeddings,
    Last,
    Head,
    Lora,
    Mpo,
    Adapter,
    Prefix,
    ChildF,
    ChildD,
    BitFit,
)


def find_way(name: str, options: Mapping[str, object] | None = None) -> Way:
    """The way of tuning of that name.

    Args:
        name: What `--tune` was given.
        options: Values by `family_field`, such as `lora_rank`; None stands for the default.

    Raises:
        InputError: There is no such way, its number is missing, or an option is another one's.
    """
    if last := re.fullmatch(r"last-(\d+)", name):
        name, options = Last.title, {**(options or {}), "last_layers": int(last[1])}
    elif name == Last.title:
        raise InputError(f"--tune {name} says no number of layers", "Give one: last-2, say")
    kind = next((way for way in WAYS if way.title == name), None)
    if kind is None:
        raise InputError(*unknown("way of tuning", name, [way.title for way in WAYS]))
    given = {option: value for option, value in (options or {}).items() if value is not None}
    own = {f"{kind.family}_{field.name}": field.name for field in _options(kind)}
    for option in given.keys() - own.keys():
        raise InputError(
            f"--{option.replace('_', '-')} is no option of --tune {name}",
            "Leave it out, or choose the way that it belongs to",
        )
    return kind(**{own[option]: value for option, value in given.items()})


def _options(kind: Any) -> list[Field[Any]]:
    return [field for field in fields(kind) if field.metadata.get("option", True)]
