"""The picture of a compression's errors."""

from pathlib import Path

import pytest

from edgefuse.compression.compress import compress, plan_compression
from edgefuse.report.fidelity_plot import check_picture, plot_fidelity
from edgefuse_devices.errors import InputError
from tests.conftest import PicoModel
from tests.pico_models import TEXTS


@pytest.mark.parametrize("architecture", ["bert", "mixtral"])
def test_the_picture_names_every_layer_and_every_error(
    architecture: str, pico_model: PicoModel, tmp_path: Path
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS * 4))
    plan = plan_compression(str(pico_model(architecture)), ratio=0.5)
    record = compress(plan, tmp_path / "fused", calibration=texts)
    first, again = tmp_path / "one.svg", tmp_path / "two.svg"
    plot_fidelity(record, first)
    plot_fidelity(record, again)
    picture = first.read_text()
    assert first.read_bytes() == again.read_bytes()
    assert "sign-NTK (how Adam moves it)" in picture
    assert all(f"<!-- {layer.layer} -->" in picture for layer in record.layers)


@pytest.mark.parametrize("name", ["errors", "errors.docx", "nowhere/errors.svg"])
def test_a_picture_that_cannot_be_written_is_refused_before_the_work(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError):
        check_picture(tmp_path / name)
