"""Who has no terminal sees a line at times, and nothing of what is over at once."""

from collections.abc import Callable

import pytest

from edgefuse.cli import _progress
from edgefuse.cli._progress import progress_bars, progress_line
from edgefuse.cli._training_progress import training_progress
from edgefuse_runtime.training.records import StepRecord


@pytest.mark.parametrize("shown", [progress_bars, progress_line])
def test_without_a_terminal_there_is_a_line_at_times(
    shown: Callable, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([0.0, 10.0, 31.0, 60.0, 62.0])
    monkeypatch.setattr(_progress.time, "monotonic", lambda: next(times))
    with shown() as on_progress:
        for done in range(1, 5):
            on_progress("Fusing MLPs", done, 4)
    printed = capsys.readouterr()
    assert printed.err == "Fusing MLPs: 2 of 4\nFusing MLPs: 4 of 4\n"
    assert printed.out == ""


def test_a_run_without_a_terminal_says_where_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_progress, "SECONDS", 0.0)
    with training_progress(3, []) as progress:
        progress.on_start(0, 40)
        progress.on_step(
            StepRecord(
                step=7,
                epoch=1,
                loss=2.5,
                learning_rate=1e-3,
                gradient_norm=1.0,
                samples_per_second=4.0,
                tokens_per_second=50.0,
                rss_mib=120.0,
            )
        )
    assert capsys.readouterr().err.startswith(
        "epoch 1/3, step 7/40  loss 2.500  4.0 samples/s  120 MiB"
    )
