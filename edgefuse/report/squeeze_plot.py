"""A picture of a squeeze: accuracy against parameters."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from edgefuse.mpo.squeeze_record import SqueezeRecord


def plot_squeeze(record: SqueezeRecord, path: Path) -> None:
    """Draw the accuracy of every round against its parameters, and the gap.

    Args:
        record: Of the squeeze.
        path: Where to; its ending says the format (.svg, .png, .pdf …).
    """
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    axes = figure.subplots()
    places = [one.parameters / 1e6 for one in record.rounds]
    heights = [100 * one.accuracy for one in record.rounds]
    axes.plot(places, heights, color="tab:blue", zorder=1)
    for one, place, height in zip(record.rounds, places, heights, strict=True):
        axes.scatter(place, height, color="tab:blue" if one.kept else "tab:red", zorder=2)
    least = heights[0] - record.settings.max_drop
    label = f"{record.settings.max_drop:g} points below the first round"
    axes.axhline(least, color="tab:gray", linestyle="--", label=label)
    axes.axvline(record.parameters_before / 1e6, color="tab:gray", linestyle=":", label="plain")
    axes.invert_xaxis()  # a squeeze goes from left to right
    axes.set_xlabel("parameters of the model, million")
    axes.set_ylabel("accuracy on validation rows, %")
    axes.set_title(f"{record.source}, squeezed")
    axes.legend()
    with mpl.rc_context({"svg.hashsalt": "edgefuse"}):  # the same record, the same bytes
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
