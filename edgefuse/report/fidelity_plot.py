"""A picture of the errors of a compressed model, MLP by MLP."""

from pathlib import Path

from matplotlib.figure import Figure

from edgefuse.artifact.record import CompressionRecord, LayerRecord
from edgefuse.report.picture import save_picture

_ERRORS = (
    ("output_error", "output"),
    ("sign_ntk_error", "sign-NTK (how Adam moves it)"),
    ("ntk_error", "NTK (how gradient descent moves it)"),
)


def plot_fidelity(record: CompressionRecord, path: Path) -> None:
    """Draw the errors of a compression: a bar for each MLP, and one for the mean of experts.

    Args:
        record: Record of a compression with text, which has errors.
        path: File to write; its suffix chooses the format (.svg, .png, .pdf …).
    """
    names, groups = _by_layer(record)
    figure = Figure(figsize=(max(6.0, 0.6 * len(names)), 4.0), layout="constrained")
    axes = figure.subplots()
    width, largest = 0.8 / len(_ERRORS), 0.0
    for index, (key, label) in enumerate(_ERRORS):
        heights = [_mean([getattr(layer, key) for layer in group]) for group in groups]
        largest = max([largest, *heights])
        places = [place + (index - 1) * width for place in range(len(names))]
        axes.bar(places, heights, width, label=label)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel("layer (width kept)")
    axes.set_ylabel("error relative to the original, on held-out text")
    if largest > 0:  # nothing is lost where nothing is cut
        axes.set_yscale("log")
    axes.set_title(f"{record.source} by {record.method}")
    axes.legend()
    save_picture(figure, path)


def _by_layer(record: CompressionRecord) -> tuple[list[str], list[list[LayerRecord]]]:
    groups: dict[tuple[int, bool], list[LayerRecord]] = {}
    for layer in record.layers:
        if layer.output_error is not None:  # None for an expert that no token reached
            groups.setdefault((layer.layer, layer.expert is None), []).append(layer)
    names = [
        f"{group[0].layer}\n({sum(one.width_after for one in group)}"
        f"/{sum(one.width_before for one in group)})"
        for group in groups.values()
    ]
    return names, list(groups.values())


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
