"""The command that exports what another one has made."""

from pathlib import Path
from shlex import quote

from edgefuse_devices.options import options_of
from edgefuse_export.tasks.registry import DEFAULT, WANTED_TASKS


def next_export(model: Path, task: str, *, tune: str | None = None) -> str:
    """Write the command that exports a model for a task.

    Args:
        model: Directory of the model.
        task: Name of the task.
        tune: Name of the way of tuning; None for the default.
    """
    kind = next(kind for kind in WANTED_TASKS if kind.name == task)
    words = [quote(str(model)), quote(f"{model}-bundle"), "--device rpi5"]
    if task != DEFAULT:
        words.append(f"--task {task}")
    if any(option.name == "labels" for option in options_of(kind)):
        words.append("--labels train.jsonl")
    if tune:
        words.append(f"--tune {tune}")
    return f"edgefuse export {' '.join(words)}"
