"""The picture of a compression's errors."""

from pathlib import Path

import pytest

from edgefuse.compression.compress import compress
from edgefuse.report.fidelity_plot import plot_fidelity
from edgefuse.report.picture import check_picture
from edgefuse_devices.errors import InputError
from tests.conftest import PicoModel
from tests.pico_models import TEXTS


@pytest.mark.parametrize("architecture", ["bert", "mixtral"])
def test_the_picture_names_every_layer_and_every_error(
    architecture: str, pico_model: PicoModel, tmp_path: Path
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS * 4))
    record = compress(
        str(pico_model(architecture)), tmp_path / "fused", ratio=0.5, calibration=texts
    )
    first, again = tmp_path / "one.svg", tmp_path / "two.svg"
    plot_fidelity(record, first)
    plot_fidelity(record, again)
    picture = first.read_text()
    assert first.read_bytes() == again.read_bytes()
    assert "sign-NTK (how Adam moves it)" in picture
    assert all(f"<!-- {layer.layer} -->" in picture for layer in record.layers)


def test_a_model_that_lost_nothing_is_drawn_without_a_warning(
    pico_model: PicoModel, tmp_path: Path
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS * 4))
    record = compress(
        str(pico_model("bert")), tmp_path / "fused", method="prune", ratio=1, calibration=texts
    )
    assert all(layer.output_error == 0 for layer in record.layers)
    plot_fidelity(record, tmp_path / "errors.SVG")  # warnings are errors
    assert "<dc:date>" not in (tmp_path / "errors.SVG").read_text()


@pytest.mark.parametrize("name", ["errors", "errors.docx", "nowhere/errors.svg"])
def test_a_picture_that_cannot_be_written_is_refused_before_the_work(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError):
        check_picture(tmp_path / name)
