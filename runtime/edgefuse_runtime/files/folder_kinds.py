"""What a folder seems to be, by the file that it has: for sentences that say what was mixed up."""

from pathlib import Path

COMPRESSION_RECORD = "edgefuse.json"

_KINDS = {
    "run.json": "a run",
    "manifest.json": "a bundle",
    "conversion.json": "a conversion",
    "squeeze.json": "a squeeze",
    "walkthrough.sh": "a demo",
    COMPRESSION_RECORD: "a compressed model",
    "adapter_config.json": "a peft adapter",
    "config.json": "a model",
}
"""The first file that is there decides."""


def kind_of(folder: Path) -> str | None:
    """What a folder seems to be, in words; None for what EdgeFuse and transformers do not write."""
    return next((kind for file, kind in _KINDS.items() if (folder / file).is_file()), None)
