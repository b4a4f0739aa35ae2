"""Names of the keys and values in decode.onnx, as optimum and onnxruntime-genai have them.

Keys and values of a layer are (batch, heads, tokens, size).
"""

from collections.abc import Iterable
from typing import Literal

POSITIONS = "position_ids"
"""Input of a graph whose model is told the places of tokens, (batch, new)."""

Part = Literal["key", "value"]

_PAST, _PRESENT = "past_key_values.", "present."


def past_name(layer: int, part: Part) -> str:
    """Name of the input that is kept of the tokens before."""
    return f"{_PAST}{layer}.{part}"


def present_name(layer: int, part: Part) -> str:
    """Name of the output that is kept of those and the new ones."""
    return f"{_PRESENT}{layer}.{part}"


def past_names(names: Iterable[str]) -> list[str]:
    """Those of a graph's inputs that are kept of the tokens before, in their order."""
    return [name for name in names if name.startswith(_PAST)]


def present_of(past: str) -> str:
    """Name of the output that takes the place of an input in the next run."""
    return _PRESENT + past.removeprefix(_PAST)
