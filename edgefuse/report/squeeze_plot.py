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
    measure, drop = record.measure, record.settings.max_drop
    in_percent = measure.format.endswith("%")
    scale = 100 if in_percent else 1
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    axes = figure.subplots()
    for kept, marks, colour, label in (
        (True, "o-", "tab:blue", "rounds"),
        (False, "x", "tab:red", "rounds taken back"),
    ):
        rounds = [one for one in record.rounds if one.kept == kept]
        places = [one.parameters / 1e6 for one in rounds]
        heights = [scale * one.figure for one in rounds]
        if rounds:
            axes.plot(places, heights, marks, color=colour, label=label)
    lost = -drop / 100 if measure.higher_is_better else drop / 100
    worst = scale * (record.rounds[0].figure + lost)
    much = f"{drop:g} points" if in_percent else f"{drop / 100:g}"
    label = f"{much} worse than the first round"
    axes.axhline(worst, color="tab:gray", linestyle="--", label=label)
    axes.axvline(record.parameters_before / 1e6, color="tab:gray", linestyle=":", label="plain")
    axes.invert_xaxis()  # a squeeze goes from left to right
    axes.set_xlabel("parameters of the model, million")
    axes.set_ylabel(f"{measure.title} on validation rows{', %' if in_percent else ''}")
    axes.set_title(f"{record.source}, squeezed")
    axes.legend()
    save_picture(figure, path)
