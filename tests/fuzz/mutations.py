"""Ways in which a file goes wrong: by chance, and by somebody's will."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

Mutation = Callable[[bytes, random.Random], bytes]

_ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    -1,
    0,
    1,
    2**31,
    2**63,
    2**64,
    10**30,
    -0.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    " ",
    "\0",
    "../../outside/canary",
    "/etc/passwd",
    "outside",
    "a" * 5000,
    "\u202e\U0001f4a3",
    "\ud800",
    "(a+)+$",
    [],
    {},
    [[]],
    [None],
    {"": None},
    [0] * 1000,
)


def of_bytes(raw: bytes, rng: random.Random) -> bytes:
    """Change some bytes, or how many there are."""
    return rng.choice(_BYTES)(raw, rng)


def of_text(raw: bytes, rng: random.Random) -> bytes:
    """Change lines of a text, or bytes."""
    lines = raw.split(b"\n")
    index = rng.randrange(len(lines))
    match rng.randrange(8):
        case 0:
            lines[index] = of_bytes(lines[index], rng)
        case 1:
            lines.insert(index, rng.choice(lines))
        case 2:
            del lines[index]
        case 3:
            lines[index] = b""
        case 4:
            lines[index] = of_json(lines[index], rng)
        case 5:
            lines[index] = lines[index] * rng.choice((2, 500))
        case 6:
            return b"\r\n".join(lines)
        case _:
            return of_bytes(raw, rng)
    return b"\n".join(lines)


def of_json(raw: bytes, rng: random.Random) -> bytes:
    """Change a value somewhere in JSON, or a key; of what is no JSON, bytes."""
    try:
        tree = json.loads(raw)
    except ValueError:
        return of_bytes(raw, rng)
    if rng.random() < 0.02:
        deep = rng.choice((rng.randrange(2000), 100_000))
        return b"[" * deep + b"]" * deep
    tree = _changed(tree, rng)
    return json.dumps(tree, ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass")


def of_tensors(raw: bytes, rng: random.Random) -> bytes:
    """Change the header of a safetensors file, whose length is made right again, or bytes."""
    size = int.from_bytes(raw[:8], "little")
    if rng.random() < 0.4 or size > len(raw):
        return of_bytes(raw, rng)
    header = of_json(raw[8 : 8 + size], rng)
    return len(header).to_bytes(8, "little") + header + raw[8 + size :]


def of_place(file: Path, rng: random.Random) -> None:
    """Put something in a file's place that is none, or nothing."""
    file.unlink()
    match rng.randrange(5):
        case 0:
            file.mkdir()
        case 1:
            os.mkfifo(file)
        case 2:
            file.symlink_to("/dev/zero")
        case 3:
            file.symlink_to(file)
        case _:
            pass


def _changed(tree: Any, rng: random.Random) -> Any:
    """A tree of JSON with one change at a place that is drawn."""
    places = list(_places(tree))
    if not places or rng.random() < 0.02:
        return rng.choice(_ODD)
    holder, key = rng.choice(places)
    match rng.randrange(6):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[rng.choice(("", "x", f"{key} ", "__class__"))] = holder.pop(key)
        case 2:
            holder[key] = [holder[key]]
        case 3 if isinstance(holder[key], int | float):
            holder[key] = holder[key] + rng.choice((-1, 1, 1000, 0.5))
        case 4:
            holder[key] = rng.choice(places)[0]
            if _is_round(tree):
                holder[key] = str(key)
        case _:
            holder[key] = rng.choice(_ODD)
    return tree


def _places(tree: Any) -> Any:
    if isinstance(tree, dict):
        items: Any = tree.items()
    elif isinstance(tree, list):
        items = enumerate(tree)
    else:
        return
    for key, value in list(items):
        yield tree, key
        yield from _places(value)


def _is_round(tree: Any) -> bool:
    """Whether a tree has itself in it."""
    try:
        json.dumps(tree)
    except (ValueError, RecursionError):
        return True
    return False


def _flip(raw: bytes, rng: random.Random) -> bytes:
    changed = bytearray(raw or b"\0")
    for _ in range(rng.choice((1, 1, 1, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(raw: bytes, rng: random.Random) -> bytes:
    return raw[: rng.randrange(len(raw) + 1)]


def _part(raw: bytes, rng: random.Random) -> tuple[int, int]:
    begin, end = sorted(rng.randrange(len(raw) + 1) for _ in range(2))
    return begin, min(end, begin + 64)


def _without(raw: bytes, rng: random.Random) -> bytes:
    begin, end = _part(raw, rng)
    return raw[:begin] + raw[end:]


def _twice(raw: bytes, rng: random.Random) -> bytes:
    begin, end = _part(raw, rng)
    return raw[:end] + raw[begin:]


def _other(raw: bytes, rng: random.Random) -> bytes:
    begin, end = _part(raw, rng)
    return raw[:begin] + rng.randbytes(end - begin) + raw[end:]


def _longer(raw: bytes, rng: random.Random) -> bytes:
    return raw + rng.choice((b"\0" * 4096, b"\n", raw, rng.randbytes(100)))


def _nothing(_raw: bytes, _rng: random.Random) -> bytes:
    return b""


_BYTES: tuple[Mutation, ...] = (_flip, _flip, _flip, _cut, _without, _twice, _other, _longer)
_BYTES += (_nothing,)
