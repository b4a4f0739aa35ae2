"""Compression of small language models that were trained, on text that they know the kind of."""

from pathlib import Path

import pytest

from benchmarks.fusion_quality import perplexity_of
from edgefuse.compression.compress import compress
from edgefuse_runtime.data.texts import read_texts

ROWS = 60


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny-llama", "tiny-mixtral"])
def test_half_of_a_trained_models_width_says_nearly_what_the_whole_said(
    name: str, data_directory: Path, models_directory: Path, tmp_path: Path
) -> None:
    source, text = models_directory / name, data_directory / "language-modelling"
    held_out = read_texts(text / "test.jsonl")[:ROWS]
    some = tmp_path / "some.txt"
    some.write_text("\n".join(" ".join(t.split()) for t in read_texts(text / "train.jsonl")[:600]))
    found = {}
    for method in ("mlp-fusion", "prune-activation"):
        compress(str(source), tmp_path / method, method=method, ratio=0.5, calibration=some)
        found[method] = perplexity_of(str(tmp_path / method), held_out)
    original = perplexity_of(str(source), held_out)
    assert original < found["mlp-fusion"] < 1.3 * original
    assert found["mlp-fusion"] < found["prune-activation"]
