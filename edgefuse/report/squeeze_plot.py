"""A picture of a squeeze: the task's first figure against parameters."""

from pathlib import Path

from matplotlib.figure import Figure

from edgefuse.report.picture import save_picture
from edgefuse.squeezing.record import SqueezeRecord


def plot_squeeze(record: SqueezeRecord, path: Path) -> None:
    """Draw the figure of every round against its parameters, and the figure that was allowed.

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
        heights = [100 * one.figure for one in rounds]
        if rounds:
            axes.plot(places, heights, marks, color=colour, label=label)
    measure, drop = record.measure, record.settings.max_drop
    worst = 100 * record.rounds[0].figure + (-drop if measure.higher_is_better else drop)
    label = f"{drop:g} points worse than the first round"
    axes.axhline(worst, color="tab:gray", linestyle="--", label=label)
    axes.axvline(record.parameters_before / 1e6, color="tab:gray", linestyle=":", label="plain")
    axes.invert_xaxis()  # a squeeze goes from left to right
    axes.set_xlabel("parameters of the model, million")
    axes.set_ylabel(f"{measure.title} on validation rows, %")
    axes.set_title(f"{record.source}, squeezed")
    axes.legend()
    save_picture(figure, path)
