"""A bundle that is not whole, or says what cannot be, is refused in one sentence."""

import shutil

import msgspec
import pytest

from edgefuse_devices.errors import BundleError, RunError
from edgefuse_runtime.bundle.bundle import MANIFEST, open_bundle
from edgefuse_runtime.bundle.manifest import SCHEMA_VERSION
from edgefuse_runtime.training.run import RECORD, read_record


@pytest.fixture
def bundle(pico_bundle, tmp_path):
    return shutil.copytree(pico_bundle, tmp_path / "bundle")


def change(bundle, edit):
    file = bundle / MANIFEST
    manifest = msgspec.json.decode(file.read_bytes())
    edit(manifest)
    file.write_bytes(msgspec.json.encode(manifest))


def test_a_whole_bundle_opens_and_keeps_its_identity(bundle, pico_bundle):
    assert open_bundle(bundle).id == open_bundle(pico_bundle).id


def test_a_folder_without_a_manifest_is_no_bundle(bundle):
    (bundle / MANIFEST).unlink()
    with pytest.raises(BundleError, match=r"is no bundle.*edgefuse export"):
        open_bundle(bundle)


def test_what_is_no_bundle_is_called_what_it_is(bundle, tmp_path):
    with pytest.raises(BundleError, match=r"nowhere is not there"):
        open_bundle(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"model is a model, not a bundle.*edgefuse export"):
        open_bundle(bundle / "model")


def test_a_missing_file_is_named(bundle):
    (bundle / "train.onnx").unlink()
    with pytest.raises(BundleError, match=r"train\.onnx is missing"):
        open_bundle(bundle)


def test_a_file_that_was_cut_short_is_named(bundle):
    file = bundle / "frozen.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"frozen\.safetensors was cut short"):
        open_bundle(bundle, verify=False)


def test_a_changed_file_of_the_same_size_is_named(bundle):
    file = bundle / "trainable.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(BundleError, match=r"trainable\.safetensors was changed"):
        open_bundle(bundle)


def test_a_link_out_of_the_bundle_is_refused(bundle, tmp_path):
    outside = (bundle / "tokenizer.json").rename(tmp_path / "outside.json")
    (bundle / "tokenizer.json").symlink_to(outside)
    with pytest.raises(BundleError, match=r"tokenizer\.json leads out of the bundle"):
        open_bundle(bundle)


@pytest.mark.parametrize("name", ["model.so", "training/graph.onnx", ".hidden"])
def test_a_file_that_the_manifest_does_not_list_is_refused(bundle, name):
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_bytes(b"")
    with pytest.raises(BundleError, match=rf"{name} is not listed in .*manifest\.json"):
        open_bundle(bundle)


def test_a_bundle_of_a_newer_edgefuse_says_to_update(bundle):
    newer = {"schema_version": SCHEMA_VERSION + 1, "unheard": "of"}
    change(bundle, lambda manifest: manifest.update(newer))
    with pytest.raises(BundleError, match=r"newer EdgeFuse.*Update EdgeFuse"):
        open_bundle(bundle)


def test_a_bundle_of_an_older_edgefuse_says_to_export_again(bundle):
    change(bundle, lambda manifest: manifest.update(schema_version=SCHEMA_VERSION - 1))
    with pytest.raises(BundleError, match=r"older EdgeFuse.*[Ee]xport it again"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("unheard", "of"),
        ("engine", "other"),
        ("batch_size", 0),
        ("sequence_length", -1),
        ("padding_id", -1),
    ],
)
def test_a_field_that_cannot_be_is_named(bundle, field, value):
    change(bundle, lambda manifest: manifest.update({field: value}))
    with pytest.raises(BundleError, match=field):
        open_bundle(bundle)


@pytest.mark.parametrize("content", [b"", b'{"schema_version": 1', b'{"task": "\xff"}', b"[]"])
def test_a_manifest_that_is_not_json_is_named(bundle, content):
    (bundle / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json cannot be read"):
        open_bundle(bundle)


@pytest.mark.parametrize("name", ["../x", "model/../../x", "/etc/hostname"])
def test_a_file_outside_the_bundle_is_refused(bundle, name):
    entry = {"size": 1, "sha256": "0"}
    change(bundle, lambda manifest: manifest["files"].update({name: entry}))
    with pytest.raises(BundleError, match="outside the bundle"):
        open_bundle(bundle)


@pytest.mark.parametrize("name", ["train.onnx", "inference.onnx", "model.onnx", "tokenizer.json"])
def test_a_manifest_must_name_what_training_needs(bundle, name):
    change(bundle, lambda manifest: manifest["files"].pop(name))
    with pytest.raises(BundleError, match=rf"does not name {name}"):
        open_bundle(bundle)


def test_a_run_record_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / RECORD).write_bytes(b'{"bundle_path": "\xff"}')
    with pytest.raises(RunError, match=r"run\.json cannot be read"):
        read_record(tmp_path)
