"""Sizes of memory and disk as people write them."""

import re

from edgefuse_devices.errors import InputError

_UNITS = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")


def parse_size(text: str, option: str, *, least: int = 1) -> int:
    """Bytes of a size such as 700MiB, 1.5GiB or 512 MB (units of IEC 80000-13, any case).

    Args:
        text: The size.
        option: The option that it was given with, for the message.
        least: The fewest bytes that it may be; where that is none, so may the text be 0.

    Raises:
        InputError: It is none, or it is nothing.
    """
    if text.strip() == "0" and least == 0:
        return 0
    found = _SIZE.fullmatch(text)
    unit = _UNITS.get(found[2].upper()) if found else None
    if not found or not unit or (size := int(float(found[1]) * unit)) < least:
        raise InputError(f"{option} {text} is no size", "Give one such as 700MiB or 2GiB")
    return size
