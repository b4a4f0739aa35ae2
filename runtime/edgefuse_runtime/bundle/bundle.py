"""The bundle: the one thing that export and runtime share.

A bundle is a directory that `manifest.json` describes; nothing in it is executable or pickled.

    manifest.json            the description (see `manifest.py`)
    train.onnx               batch and every weight → loss, gradient norm, every gradient
    layers/                  in its place, where training goes layer by layer:
        entrance.onnx            batch → input of the first layer, contexts
        forward_K.onnx           a layer of kind K: input, contexts → output
        exit.onnx                output of the last layer, targets → loss, gradients
        backward_K.onnx          input, contexts, gradient of the output → gradients
        keeping_forward_K.onnx   the same as forward_K.onnx, and what the backward pass needs
        keeping_backward_K.onnx  the same as backward_K.onnx of that
        entrance_backward.onnx   batch, gradients of input and contexts → gradients
    gradient_norm.onnx       every gradient → their norm, where a batch comes in parts
    optimizer.onnx           one step of the optimizer, over blocks of elements or a parameter
    inference.onnx           batch and every weight, merged → outputs
    decode.onnx              tokens, keys and values of those before, and every weight, merged →
                             logits, keys and values; where a model that writes keeps any
    model.onnx               inference.onnx with weights as external initializers, for
                             `convert --to onnx`
    model_with_past.onnx     decode.onnx, likewise
    trainable.safetensors    what is trained, as it stands before the first step
    frozen.safetensors       what is not: frozen parameters, buffers, multiplicities P
    masks.safetensors        what part of the gradients counts, where that is chosen
    tokenizer.json           of the Hugging Face tokenizers library
    model/                   configuration and tokenizer files, for `convert --to transformers`
    peft/                    configuration of the adapter that trains, for `convert --to peft`
    proof/                   batches with torch's results, and texts with their token ids
    training/                the artifacts of onnxruntime-training, where that is the engine
"""

import hashlib
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from edgefuse_devices.errors import BundleError
from edgefuse_runtime.bundle.manifest import AGAIN, FileEntry, Manifest, decode_manifest
from edgefuse_runtime.data.batching import Dataset, kept
from edgefuse_runtime.data.tokenization import open_tokenizer
from edgefuse_runtime.engines.engine import Engine, Training
from edgefuse_runtime.engines.row_cache import RowCache
from edgefuse_runtime.files.folder_kinds import kind_of
from edgefuse_runtime.files.tensor_file import METADATA, map_tensors, read_header

MANIFEST = "manifest.json"
PEFT_CONFIG = "peft/adapter_config.json"
DECODING = "decode.onnx"
MODEL_WITH_PAST = "model_with_past.onnx"

_TRAINABLE, _FROZEN = "trainable.safetensors", "frozen.safetensors"
_NEEDED = ("inference.onnx", "model.onnx", _TRAINABLE, _FROZEN, "tokenizer.json")


class Bundle:
    """An opened bundle: its directory, manifest and identity.

    Attributes:
        path: The bundle's directory.
        manifest: Description of the bundle.
        id: SHA-256 of manifest.json, which itself holds the digest of every file.
    """

    def __init__(self, path: Path, manifest: Manifest, identity: str) -> None:
        self.path = path
        self.manifest = manifest
        self.id = identity

    def trainable(self) -> dict[str, np.ndarray]:
        """Copies of the trained parameters before the first step, float32, by name."""
        return load_file(self.path / _TRAINABLE)

    @cached_property
    def frozen(self) -> dict[str, np.ndarray]:
        """Frozen parameters, buffers and multiplicities by name, read-only views of their file.

        It is mapped once for all who use it: Linux counts the pages of every mapping as resident.
        """
        return map_tensors(self.path / _FROZEN)

    def tokenizer(self) -> Tokenizer:
        """The bundle's tokenizer: it cuts texts at the bundle's length and does not pad."""
        return open_tokenizer(self.path / "tokenizer.json", length=self.manifest.sequence_length)

    def read(self, file: Path, *, folder: Path | None = None) -> Dataset:
        """Read and tokenize rows of the bundle's task.

        Args:
            file: The rows.
            folder: Where tokens lie, in a file without a name, that are too many for memory; None
                for the one that TMPDIR names, or /var/tmp.

        Raises:
            DataError: There is no such file, it has no row, or a row is broken.
            OutputError: The disk is full.
        """
        return kept(self.manifest.task.read(file, self.tokenizer()), folder)

    def training(
        self,
        *,
        threads: int,
        token_ids: NDArray[np.int64] | None = None,
        seed: int = 0,
        accumulates: bool = False,
        kept_layers: int = 0,
        row_cache: RowCache | None = None,
    ) -> Training:
        """What an engine has to know of the bundle.

        Args:
            threads: Threads to compute with.
            token_ids: Every token id that training will see, in any order; None for all.
            seed: Seed of what a way of tuning draws at every step.
            accumulates: Whether steps come in parts.
            kept_layers: Count of layers whose insides are kept for the backward pass.
            row_cache: Where what frozen layers give for a row is kept.
        """
        manifest = self.manifest
        return Training(
            folder=self.path,
            parameters=manifest.parameters,
            frozen=self.frozen,
            optimizer=manifest.optimizer,
            mask=manifest.gradient_mask,
            padding_id=manifest.padding_id,
            threads=threads,
            token_ids=token_ids,
            seed=seed,
            accumulates=accumulates,
            kept_layers=kept_layers,
            row_cache=row_cache,
            learned_tokens=manifest.task.learned_tokens,
        )


def open_engine(
    bundle: Bundle,
    *,
    threads: int,
    token_ids: NDArray[np.int64] | None = None,
    seed: int = 0,
    accumulates: bool = False,
    kept_layers: int = 0,
    row_cache: RowCache | None = None,
) -> Engine:
    """Make the engine that a bundle was exported for; the arguments are those of `training`.

    Raises:
        BundleError: The engine's package is not installed here.
    """
    training = bundle.training(
        threads=threads,
        token_ids=token_ids,
        seed=seed,
        accumulates=accumulates,
        kept_layers=kept_layers,
        row_cache=row_cache,
    )
    return bundle.manifest.engine.open(training)


def open_bundle(path: Path, *, verify: bool = True) -> Bundle:
    """Open a bundle and check that it is whole.

    Args:
        path: The bundle's directory.
        verify: Whether to compare the SHA-256 of every file too, not only its presence and size.

    Raises:
        BundleError: It is no bundle, was cut short or changed, has a file that its manifest does
            not list, or is of another schema.
    """
    file = path / MANIFEST
    if not path.exists():
        raise BundleError(f"{path} is not there", "Check the path of the bundle")
    if not file.is_file():
        kind = kind_of(path)
        raise BundleError(
            f"{path} is {f'{kind}, not a' if kind else 'no'} bundle: it has no {MANIFEST}",
            "Name the bundle that it was made with, as its run.json says"
            if kind == "a run"
            else "Make one with `edgefuse export MODEL BUNDLE --device NAME`",
        )
    raw = file.read_bytes()
    manifest = decode_manifest(raw, file)
    _check_names(manifest, file)
    for name, entry in manifest.files.items():
        _check_inside(path / name, path)
        check_file(path / name, entry, verify=verify)
    check_tensors(path, manifest)
    for extra in unlisted(path, manifest):
        raise BundleError(
            f"{extra} is not listed in {file}",
            "Delete what has been put there, or copy the bundle again",
        )
    return Bundle(path, manifest, hashlib.sha256(raw).hexdigest())


def write_manifest(path: Path, manifest: Manifest) -> Bundle:
    """Write manifest.json, the last file of a bundle to be written, and open the bundle."""
    raw = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
    (path / MANIFEST).write_bytes(raw)
    return Bundle(path, manifest, hashlib.sha256(raw).hexdigest())


def describe_files(path: Path) -> dict[str, FileEntry]:
    """Size and digest of every file below `path`, the manifest excepted."""
    files = sorted(p for p in path.rglob("*") if p.is_file() and p != path / MANIFEST)
    return {
        p.relative_to(path).as_posix(): FileEntry(size=p.stat().st_size, sha256=digest(p))
        for p in files
    }


def digest(path: Path) -> str:
    """SHA-256 of a file, lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_names(manifest: Manifest, file: Path) -> None:
    for name in manifest.files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise BundleError(f"{file} names {name}, which is outside the bundle", AGAIN)
    for name in (*_NEEDED, *manifest.engine.files):
        if name not in manifest.files:
            raise BundleError(f"{file} does not name {name}, which a bundle needs", AGAIN)


def check_tensors(path: Path, manifest: Manifest) -> None:
    """Check that tensors can be read, and that those that train are the manifest's parameters.

    Raises:
        BundleError: They cannot, or are others.
    """
    try:
        header, _ = read_header(path / _TRAINABLE)
        read_header(path / _FROZEN)
    except (OSError, ValueError) as error:
        raise BundleError(str(error), AGAIN) from error
    there = {name: entry["shape"] for name, entry in header.items() if name != METADATA}
    if there != {parameter.name: parameter.shape for parameter in manifest.parameters}:
        raise BundleError(
            f"{path / _TRAINABLE} does not hold the parameters that {MANIFEST} describes", AGAIN
        )


def unlisted(path: Path, manifest: Manifest) -> Iterator[Path]:
    """Files of a bundle that its manifest does not list: nobody has said what they are."""
    listed = {MANIFEST, *manifest.files}
    for file in sorted(path.rglob("*")):
        if not file.is_dir() and file.relative_to(path).as_posix() not in listed:
            yield file


def _check_inside(file: Path, folder: Path) -> None:
    """Refuse a symbolic link by which a bundle would hand out files of this machine."""
    # Unlike resolve, realpath has no word of links that go in rings: they are no files.
    if not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(folder)):
        raise BundleError(
            f"{file} leads out of the bundle by a link",
            f"If you made the link, copy the bundle with its files: cp -rL {folder} COPY",
        )


def check_file(path: Path, entry: FileEntry, *, verify: bool) -> None:
    """Check that a file is as a manifest says.

    Args:
        path: The file.
        entry: What the manifest says of it.
        verify: Whether to compare the SHA-256 too, not only presence and size.

    Raises:
        BundleError: It is missing, was cut short or changed.
    """
    if not path.is_file():
        raise BundleError(f"{path} is missing from the bundle", AGAIN)
    if path.stat().st_size != entry.size:
        raise BundleError(
            f"{path} was cut short or changed: {path.stat().st_size} bytes, "
            f"the manifest says {entry.size}",
            AGAIN,
        )
    if verify and digest(path) != entry.sha256:
        raise BundleError(f"{path} was changed: its SHA-256 is not the manifest's", AGAIN)
