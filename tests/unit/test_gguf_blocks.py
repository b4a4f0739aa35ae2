"""Matrices of a GGUF file are kept as the file has them."""

import numpy as np
import pytest

from edgefuse.hub.gguf_blocks import GGUFBlocks
from tests.pico_gguf import save_gguf

FORMS = ("Q4_0", "Q4_1", "Q8_0", "Q5_0")
KNOWN = FORMS[:3]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "pico.gguf"
    save_gguf(path, forms=FORMS)
    return path


@pytest.fixture(scope="module")
def matrices(file):
    """The matrices that transformers makes of the file, by their names, and the file's forms."""
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    import edgefuse  # noqa: PLC0415

    model = edgefuse.from_pretrained(str(file), AutoModelForCausalLM)
    return {
        name: parameter.detach().numpy()
        for name, parameter in model.named_parameters()
        if parameter.ndim == 2 and parameter.shape[1] % 32 == 0
    }


def test_codes_scales_and_minima_stand_for_the_very_floats(file, matrices):
    blocks = GGUFBlocks(file, least="int4")
    found = {name: blocks.of(matrix) for name, matrix in matrices.items()}
    for name, one in found.items():
        if one is not None:
            np.testing.assert_array_equal(one.floats(), matrices[name], err_msg=name)
    kinds = {(one.precision, one.minimum is not None) for one in found.values() if one}
    assert kinds == {("int4", False), ("int4", True), ("int8", False)}
    unknown = [name for name, one in found.items() if one is None]
    assert len(unknown) == pytest.approx(len(found) / len(FORMS), abs=1)  # of 5 bits
    # Rotary heads have their rows in another order in the file.
    assert any("q_proj" in name and one for name, one in found.items())


def test_a_row_of_zeros_may_be_in_several_forms(tmp_path):
    gguf = pytest.importorskip("gguf", reason="the package gguf (extra `gguf`) is not installed")
    writer = gguf.GGUFWriter(tmp_path / "zeros.gguf", "llama")
    floats = {}
    for form in ("Q8_0", "Q4_0"):
        kind = gguf.GGMLQuantizationType[form]
        matrix = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
        matrix[2] = 0
        raw = gguf.quants.quantize(matrix, kind)
        floats[form] = gguf.quants.dequantize(raw, kind)
        writer.add_tensor(form, raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    blocks = GGUFBlocks(tmp_path / "zeros.gguf", least="int4")
    for form, precision in (("Q8_0", "int8"), ("Q4_0", "int4")):
        found = blocks.of(floats[form])
        assert found is not None
        assert found.precision == precision
        np.testing.assert_array_equal(found.floats(), floats[form])


def test_8_bits_take_nothing_of_4(file, matrices):
    blocks = GGUFBlocks(file, least="int8")
    kinds = {one.precision for matrix in matrices.values() if (one := blocks.of(matrix))}
    assert kinds == {"int8"}


def test_rows_are_found_wherever_they_went_and_none_that_are_not_there(file, matrices):
    blocks = GGUFBlocks(file, least="int4")
    matrix = next(m for m in matrices.values() if (one := blocks.of(m)) and one.minimum is not None)
    order = np.random.default_rng(0).permutation(len(matrix))
    moved = blocks.of(matrix[order])
    assert moved is not None
    np.testing.assert_array_equal(moved.floats(), matrix[order])
    assert blocks.of(matrix + np.float32(1e-3)) is None
    assert blocks.of(np.stack([matrix, matrix])) is None
    others = [m for m in matrices.values() if m.shape[1] == matrix.shape[1]]
    assert blocks.of(np.concatenate(others)) is None  # in several forms
    assert blocks.of(np.zeros((0, 64), np.float32)) is None
