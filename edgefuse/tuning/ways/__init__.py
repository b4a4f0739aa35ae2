"""All ways of tuning, a file each, and the choice of one by its name and options.

`edgefuse export --help` reads the options of all: a way's file imports torch and the like inside
`prepare`.
"""

from collections.abc import Mapping

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
from edgefuse_devices.options import make, refuse_options

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


def find_way(name: str | Way, options: Mapping[str, object] | None = None) -> Way:
    """Make the way of tuning of a name and its options.

    Args:
        name: A name as `--tune` takes it, or a way, which is given back.
        options: Values by `family_field`, such as `lora_rank`; None stands for the default.

    Raises:
        InputError: There is no such way, its name lacks a number, or an option is another way's.
    """
    if isinstance(name, Way):
        refuse_options(options or {}, name)
        return name
    for kind in WAYS:
        named = kind.options_in(name)
        if named is not None:
            break
    else:
        raise InputError(*unknown("way of tuning", name, [way.title for way in WAYS]))
    return make(kind, options or {}, choice=f"--tune {name}", family=kind.family, **named)
