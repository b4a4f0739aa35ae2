"""Pictures as files: what may be drawn to, and how it is written."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from edgefuse.report.write import check_output_file
from edgefuse_devices.errors import InputError

_VECTOR = {".svg", ".svgz", ".pdf", ".eps", ".ps"}
_ENDINGS = _VECTOR | {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"}


def check_picture(path: Path) -> None:
    """Refuse a picture's name that cannot be written, before the work is done.

    Raises:
        InputError: Its ending names no format of pictures.
        OutputError: It is a directory, or its directory is not there or cannot be written.
    """
    if path.suffix.lower() not in _ENDINGS:
        raise InputError(
            f"{path} does not end as a picture does", "Name it with .svg, .png or .pdf at its end"
        )
    check_output_file(path)


def save_picture(figure: Figure, path: Path) -> None:
    """Write a figure; its ending says the format, and the same SVG has the same bytes."""
    with mpl.rc_context({"svg.hashsalt": "edgefuse"}):
        metadata = {"Date": None} if path.suffix.lower() in {".svg", ".svgz"} else None
        figure.savefig(path, metadata=metadata)
