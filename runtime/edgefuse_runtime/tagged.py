"""Members of the manifest's tagged unions: a task, an optimizer, an engine.

Each union is an explicit list, read when a manifest is decoded. A member is a frozen struct that
holds what only it has, and does what only it does.
"""

from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import Any

import msgspec
from msgspec import Struct


class Tagged(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="name"):
    """The base of all members: in JSON, an object whose `name` is the member's."""

    @property
    def name(self) -> str:
        """The member's name, as the manifest has it."""
        return name_of(type(self))


def name_of(member: type[Any]) -> str:
    """The name of a union's member."""
    return str(member.__struct_config__.tag)


def decode_member(members: Sequence[type[Any]], value: Any) -> Any:
    """Make a member of a union from what JSON holds.

    Args:
        members: The union.
        value: An object with `name` and the member's fields.

    Raises:
        msgspec.ValidationError: The name is none of theirs, or the fields do not hold.
    """
    return msgspec.convert(value, reduce(or_, members))
