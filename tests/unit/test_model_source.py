"""What a model is called in records, and a compressed model that comes from the hub."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgefuse.compression.compress import compress
from edgefuse.hub.source import find_source

COMMIT = "0123456789abcdef0123456789abcdef01234567"

# In a process of its own: where the hub's cache is gets decided when the library is imported.
SCRIPT = """
import sys
from pathlib import Path
import edgefuse
from edgefuse.bundling.export import export
from edgefuse_export.tasks.text_classification import WantedTextClassification
from edgefuse_devices.catalog import load_device

model = edgefuse.from_pretrained("someone/fused")
print(sorted({int(p.sum()) for p in edgefuse.multiplicities(model).values()}))
task = WantedTextClassification(labels=["a", "b"])
bundle = export("someone/fused", Path(sys.argv[1]), device=load_device("rpi5"), task=task)
print(bundle.manifest.model.source, bundle.manifest.model.compression, len(bundle.manifest.merges))
"""


@pytest.mark.parametrize(
    ("directory", "label"),
    [
        ("all-MiniLM-L6-v2", "all-MiniLM-L6-v2"),
        ("minilm/model", "minilm/model"),
        ("sst2/checkpoint-500", "sst2/checkpoint-500"),
        ("minilm/models", "models"),
    ],
)
def test_a_directory_is_called_by_its_name_and_its_parents_where_that_says_nothing(
    directory, label, tmp_path
):
    path = tmp_path / directory
    path.mkdir(parents=True)
    (path / "config.json").touch()
    assert find_source(str(path)).label == label


@pytest.mark.slow
def test_a_compressed_model_on_the_hub_keeps_its_cluster_sizes(pico_model, tmp_path):
    cached = tmp_path / "hub/models--someone--fused"
    compress(str(pico_model()), cached / "snapshots" / COMMIT, width=12)
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text(COMMIT)
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path / "bundle"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["[32]", "someone/fused mlp-fusion 3"]
