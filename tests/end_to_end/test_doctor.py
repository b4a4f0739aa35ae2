"""The doctor finds a bundle healthy where it computes what torch did, and says what does not."""

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import edgefuse_runtime
from edgefuse_devices.errors import BundleError
from edgefuse_runtime.bundle.bundle import (
    MANIFEST,
    describe_files,
    open_bundle,
    write_manifest,
)
from edgefuse_runtime.bundle.manifest import decode_manifest
from edgefuse_runtime.checking.batches import BATCHES
from edgefuse_runtime.checking.texts import TEXTS
from edgefuse_runtime.engines.onnxruntime import OnnxRuntimeEngine


@pytest.fixture
def bundle(pico_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pico_bundle, tmp_path / "bundle"))


def sealed(bundle: Path, **changes: Any) -> Path:
    """The bundle with the digests of its files as they are now: export made it so, it seems."""
    file = bundle / MANIFEST
    manifest = decode_manifest(file.read_bytes(), file)
    changed = msgspec.structs.replace(manifest, files=describe_files(bundle), **changes)
    write_manifest(bundle, changed)
    return bundle


def test_a_bundle_is_healthy_where_it_was_exported(pico_bundle: Path, run: Any) -> None:
    before = describe_files(pico_bundle)
    result = run("doctor", pico_bundle, "--threads", 1, "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert found["healthy"]
    assert found["problems"] == []
    assert found["board"]["name"] == "rpi5"
    assert found["engine_version"] == found["exported_with"]
    assert found["peak_rss_bytes"] > 0 < found["available_bytes"]
    manifest = open_bundle(pico_bundle).manifest
    assert [tuple(one["shape"]) for one in found["replays"]] == [
        check.shape for check in manifest.certificate.checks
    ]
    for one in found["replays"]:
        assert one["gradients"] == len(manifest.parameters)
        assert one["loss_difference"] < 1e-5
        assert one["output_error"] < 1e-5
        assert one["worst_gradient_error"] < 1e-3
        assert one["gradient_norm_error"] < 1e-5
    assert found["texts"] > 10
    assert describe_files(pico_bundle) == before


def test_the_table_names_machine_engine_memory_and_every_batch(pico_bundle: Path, run: Any) -> None:
    result = run("doctor", pico_bundle)
    assert result.code == 0
    for word in ("is healthy here", "onnxruntime", "MiB are free here", "1 × 7 tokens", "texts"):
        assert word in result.out


def test_a_changed_file_is_the_bundles_fault(bundle: Path, run: Any) -> None:
    file = bundle / "frozen.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    result = run("doctor", bundle)
    assert result.code == 2
    assert "frozen.safetensors was changed" in result.err
    assert "Copy the bundle again" in result.err


def test_other_weights_compute_another_loss(bundle: Path, run: Any) -> None:
    file = bundle / "trainable.safetensors"
    weights = load_file(file)
    weights["classifier.weight"] = weights["classifier.weight"][::-1].copy()
    save_file(weights, file)
    result = run("doctor", sealed(bundle), "--json")
    assert result.code == 1
    assert not json.loads(result.out)["healthy"]
    assert "At 1 × 7 tokens the loss differs from torch's by" in result.err
    assert "Install onnxruntime" in result.err


def test_a_gradient_that_differs_alone_is_named(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = OnnxRuntimeEngine.gradients

    def wrong(self: Any, feeds: Any) -> Any:
        step, gradients = right(self, feeds)
        name = "bert.encoder.layer.1.output.dense.weight"
        return step, {**gradients, name: np.flip(gradients[name], 0)}

    monkeypatch.setattr(OnnxRuntimeEngine, "gradients", wrong)
    diagnosis = edgefuse_runtime.doctor(bundle, threads=1)
    assert not diagnosis.healthy
    assert "gradient of bert.encoder.layer.1.output.dense.weight differs" in diagnosis.problems[0]


def test_a_tokenizer_that_reads_otherwise_is_found_by_a_text(bundle: Path, run: Any) -> None:
    file = bundle / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["normalizer"]["lowercase"] = False
    file.write_text(json.dumps(tokenizer))
    result = run("doctor", sealed(bundle))
    assert result.code == 1
    assert "is not well here" in result.out
    assert "The tokenizer makes other token ids of" in result.err


def test_a_bundle_without_a_certificate_is_to_be_exported_again(bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"has no certificate.*Export it again"):
        edgefuse_runtime.doctor(sealed(bundle, certificate=None))


@pytest.mark.parametrize("name", [BATCHES, TEXTS])
def test_a_certificate_that_cannot_be_read_is_named(bundle: Path, name: str) -> None:
    (bundle / name).write_bytes(b"\x10\0\0\0\0\0\0\0" + b"{}" * 8)
    with pytest.raises(BundleError, match=rf"{Path(name).name} cannot be read"):
        edgefuse_runtime.doctor(sealed(bundle))


def test_the_stored_batches_end_in_padding(pico_bundle: Path) -> None:
    tensors = load_file(pico_bundle / BATCHES)
    manifest = open_bundle(pico_bundle).manifest
    for number, check in enumerate(manifest.certificate.checks):
        ids = tensors[f"{number}.feeds.input_ids"]
        mask = tensors[f"{number}.feeds.attention_mask"]
        assert ids.shape == mask.shape == check.shape
        assert mask[:-1].all()
        assert not mask[-1, check.shape[1] // 2 :].any()
        assert (ids[mask == 0] == manifest.padding_id).all()
