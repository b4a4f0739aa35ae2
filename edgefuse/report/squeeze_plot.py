"""A picture of a squeeze: accuracy against parameters."""

from pathlib import Path

from matplotlib.figure import Figure

from edgefuse.report.picture import save_picture
from edgefuse.squeezing.record import SqueezeRecord


def plot_squeeze(record: SqueezeRecord, path: Path) -> None:
    """Draw the accuracy of every round against its parameters, and the accuracy that was allowed.

    Args:
        record: Record of the squeeze.
        path: File to write; its suffix chooses the format (.svg, .png, .pdf …).
    """
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    axes = figure.subplots()
    for kept, marks, colour, label in (
        (True, "o-", "tab:blue", "rounds"),
        (False, "x", "tab:red", "rounds taken back"),
    ):
        rounds = [one for one in record.rounds if one.kept == kept]
        places = [one.parameters / 1e6 for one in rounds]
        heights = [100 * one.accuracy for one in rounds]
        if rounds:
            axes.plot(places, heights, marks, color=colour, label=label)
    least = 100 * record.rounds[0].accuracy - record.settings.max_drop
    label = f"{record.settings.max_drop:g} points below the first round"
    axes.axhline(least, color="tab:gray", linestyle="--", label=label)
    axes.axvline(record.parameters_before / 1e6, color="tab:gray", linestyle=":", label="plain")
    axes.invert_xaxis()  # a squeeze goes from left to right
    axes.set_xlabel("parameters of the model, million")
    axes.set_ylabel("accuracy on validation rows, %")
    axes.set_title(f"{record.source}, squeezed")
    axes.legend()
    save_picture(figure, path)
