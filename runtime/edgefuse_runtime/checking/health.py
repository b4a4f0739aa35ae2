"""Whether every byte of a run, a bundle or a model is as written, and what is left where not."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from msgspec import Struct

from edgefuse_devices.errors import BundleError, EdgeFuseError, InputError
from edgefuse_runtime.bundle.bundle import MANIFEST, check_file, check_tensors, digest, unlisted
from edgefuse_runtime.bundle.manifest import decode_manifest
from edgefuse_runtime.files.folder_kinds import kind_of
from edgefuse_runtime.files.regular import check_regular
from edgefuse_runtime.files.tensor_file import read_header
from edgefuse_runtime.training.checkpoint import LostCheckpointError, load_checkpoint
from edgefuse_runtime.training.metrics_log import read_metrics
from edgefuse_runtime.training.records import Report
from edgefuse_runtime.training.run import (
    BEST,
    FILES,
    LAST,
    METRICS,
    PREVIOUS,
    RECORD,
    REPORT,
    DataFile,
    RunRecord,
    is_leftover,
    is_run,
    open_run_bundle,
    read_json,
    read_record,
)

State = Literal["whole", "broken", "missing", "unlisted", "left over"]

_CONFIG = "config.json"
_AGAIN = "Copy the bundle again, or export it anew"


class FileHealth(Struct, frozen=True, kw_only=True):
    """How a file is.

    Attributes:
        name: Path in the folder; of the bundle and the data of a run, what they are.
        state: `whole` where it is as it was written; `left over` where a killed command left it.
        note: What is known of it beside.
    """

    name: str
    state: State
    note: str = ""

    @property
    def is_lost(self) -> bool:
        """Whether what should be there is not, or not as it was written."""
        return self.state in ("broken", "missing")


class Health(Struct, frozen=True, kw_only=True):
    """How a run, a bundle or a model is.

    Attributes:
        kind: What it is.
        whole: Whether nothing that it needs is missing or broken.
        files: How each file is.
        advice: What can be done about what is not whole, a sentence each.
    """

    kind: Literal["run", "bundle", "model"]
    whole: bool
    files: list[FileHealth]
    advice: list[str]


def check(path: Path, *, bundle: Path | None = None) -> Health:
    """Read every byte of a run, a bundle or a model; nothing is written.

    Args:
        path: The directory of one of these.
        bundle: Place of a run's bundle, when it is not where it was.

    Raises:
        InputError: It is none of these.
    """
    if is_run(path) or any((path / name).exists() for name in (LAST, BEST)):
        return _of_run(path, bundle)
    if (path / MANIFEST).exists():
        return _of_bundle(path)
    if (path / _CONFIG).exists():
        return _of_model(path)
    what = kind_of(path) or ("other files" if path.is_dir() else "no folder")
    raise InputError(
        f"{path} is no run, no bundle and no model, but {what}",
        "Name a folder that finetune, export or compress has made",
    )


def _health(
    kind: Literal["run", "bundle", "model"], files: list[FileHealth], advice: list[str]
) -> Health:
    whole = not any(file.is_lost for file in files)
    return Health(kind=kind, whole=whole, files=files, advice=advice)


def _of_run(run: Path, bundle: Path | None) -> Health:
    files, advice = [], []
    record: RunRecord | None = None
    try:
        record = read_record(run)
        files.append(FileHealth(name=RECORD, state="whole"))
    except EdgeFuseError as error:
        files.append(_lost(run / RECORD, error))
        advice.append(f"Without {RECORD} the run cannot go on: replace it with --overwrite")
    if record:
        files += _around(run, record, bundle)
        files += _checkpoints(run, record.bundle_id)
        advice += _of_checkpoints({file.name: file for file in files})
    files += filter(None, (_read(run / METRICS, read_metrics), _read(run / REPORT, _report)))
    for entry in sorted(run.iterdir()):
        if is_leftover(entry.name):
            note = "the next `edgefuse finetune` removes it"
            files.append(FileHealth(name=entry.name, state="left over", note=note))
        elif entry.name not in FILES:
            files.append(FileHealth(name=entry.name, state="unlisted"))
    return _health("run", files, advice)


def _around(run: Path, record: RunRecord, bundle: Path | None) -> Iterator[FileHealth]:
    """The bundle and the data of a run."""
    try:
        opened = open_run_bundle(run, record, bundle)
        yield FileHealth(name="the bundle", state="whole", note=str(opened.path))
    except EdgeFuseError as error:
        yield FileHealth(name="the bundle", state="broken", note=error.problem)
    for name, data in (("training data", record.train), ("validation data", record.valid)):
        if data:
            yield _data(name, data)


def _data(name: str, data: DataFile) -> FileHealth:
    file = Path(data.path)
    if not file.is_file():
        return FileHealth(name=name, state="missing", note=data.path)
    same = digest(file) == data.sha256
    note = data.path if same else f"{data.path} is not what the run began with"
    return FileHealth(name=name, state="whole" if same else "broken", note=note)


def _checkpoints(run: Path, bundle_id: str) -> Iterator[FileHealth]:
    for name in (LAST, PREVIOUS, BEST):
        try:
            _, progress = load_checkpoint(run / name, bundle_id=bundle_id)
        except LostCheckpointError as error:
            if (run / name).exists() or (run / name).is_symlink():
                yield FileHealth(name=name, state="broken", note=error.problem)
            elif name != PREVIOUS and (run / REPORT).exists():
                yield FileHealth(name=name, state="missing")
        except EdgeFuseError as error:
            yield FileHealth(name=name, state="broken", note=error.problem)
        else:
            yield FileHealth(name=name, state="whole", note=f"after step {progress.step}")


def _of_checkpoints(files: dict[str, FileHealth]) -> Iterator[str]:
    """What `--resume` would make of checkpoints that are lost."""
    whole = {name for name in (LAST, PREVIOUS) if name in files and files[name].state == "whole"}
    if LAST in files and LAST not in whole:
        if PREVIOUS in whole:
            yield f"`--resume` goes on from {PREVIOUS}, {files[PREVIOUS].note}"
        else:
            yield "`--resume` begins again from the first step"
    if BEST in files and files[BEST].state != "whole":
        yield f"`--resume` looks for another {BEST} among the epochs that end from there on"


def _read(file: Path, read: Callable[[Path], object]) -> FileHealth | None:
    """How a file is that may be missing."""
    try:
        check_regular(file)
        if not file.exists():
            return None
        read(file)
    except (EdgeFuseError, OSError, ValueError, RecursionError) as error:
        return _lost(file, error)
    return FileHealth(name=file.name, state="whole")


def _report(file: Path) -> Report:
    return read_json(file, Report)


def _lost(file: Path, error: Exception, name: str = "") -> FileHealth:
    """How a file is that cannot be read, by its own name or another."""
    name = name or file.name
    if not file.exists() and not file.is_symlink():
        return FileHealth(name=name, state="missing")
    note = error.problem if isinstance(error, EdgeFuseError) else str(error)
    return FileHealth(name=name, state="broken", note=note)


def _of_bundle(bundle: Path) -> Health:
    try:
        manifest = decode_manifest((bundle / MANIFEST).read_bytes(), bundle / MANIFEST)
    except (EdgeFuseError, OSError) as error:
        return _health("bundle", [_lost(bundle / MANIFEST, error)], [_AGAIN])
    files = [FileHealth(name=MANIFEST, state="whole")]
    for name, entry in sorted(manifest.files.items()):
        try:
            check_file(bundle / name, entry, verify=True)
            files.append(FileHealth(name=name, state="whole"))
        except BundleError as error:
            files.append(_lost(bundle / name, error, name))
    if not any(file.is_lost for file in files):
        try:
            check_tensors(bundle, manifest)
        except BundleError as error:
            files.append(FileHealth(name="the tensors", state="broken", note=error.problem))
    extra = (file.relative_to(bundle).as_posix() for file in unlisted(bundle, manifest))
    files += (FileHealth(name=name, state="unlisted") for name in extra)
    return _health("bundle", files, [_AGAIN] if any(file.is_lost for file in files) else [])


def _of_model(model: Path) -> Health:
    """A model's directory, which has no digests: what shows without them."""
    readers: dict[str, Callable[[Path], object]] = {".safetensors": read_header, ".json": _json}
    files = [
        found
        for file in sorted(model.rglob("*"))
        if file.suffix in readers and (found := _read(file, readers[file.suffix]))
    ]
    lost = any(file.is_lost for file in files)
    return _health("model", files, ["Copy the model again, or make it anew"] if lost else [])


def _json(file: Path) -> object:
    return json.loads(file.read_bytes())
