"""Pictures as files."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from edgefuse.report.write import check_output_file
from edgefuse_devices.errors import InputError

_VECTOR = {".svg", ".svgz", ".pdf", ".eps", ".ps"}
_ENDINGS = _VECTOR | {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"}


def check_picture(path: Path) -> None:
    """Refuse early a picture that could not be written later.

    Raises:
        InputError: The suffix names no format of pictures.
        OutputError: The path is a directory, or its directory is not there or cannot be written.
    """
    if path.suffix.lower() not in _ENDINGS:
        raise InputError(
            f"{path} does not end as a picture does", "Name it with .svg, .png or .pdf at its end"
        )
    check_output_file(path)


def save_picture(figure: Figure, path: Path) -> None:
    """Write a figure in the format of its suffix; the same picture has the same bytes as SVG."""
    with mpl.rc_context({"svg.hashsalt": "edgefuse"}):
        metadata = {"Date": None} if path.suffix.lower() in {".svg", ".svgz"} else None
        figure.savefig(path, metadata=metadata)
