"""The boards that EdgeFuse knows: a TOML file each in `profiles/`.

The folder is the registry. A user's own file is read and checked in the same way.
"""

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import msgspec

from edgefuse_devices.errors import DeviceError
from edgefuse_devices.names import unknown
from edgefuse_devices.probe import HOST, probe
from edgefuse_devices.profile import DeviceProfile

_SUFFIX = ".toml"
_PROCESSORS = {"cpu", "cuda", "gpu", "mps", "npu", "rocm", "tpu"}
_LISTED = "`edgefuse devices` lists the boards"


def list_devices() -> list[DeviceProfile]:
    """List every shipped profile, by name; the machine at hand (`host`) is not among them."""
    return [_read(file) for file in _shipped().values()]


def load_device(name_or_path: str) -> DeviceProfile:
    """Load the profile that `--device` names.

    Args:
        name_or_path: Name of a shipped profile, `host` for the machine at hand, or path of a
            .toml file.

    Raises:
        DeviceError: There is no such board or file, or the file is no valid profile.
    """
    if name_or_path == HOST:
        return probe()
    if name_or_path.endswith(_SUFFIX) or Path(name_or_path).name != name_or_path:
        return _read(Path(name_or_path))
    shipped = _shipped()
    if name_or_path in shipped:
        return _read(shipped[name_or_path])
    if name_or_path.lower().partition(":")[0] in _PROCESSORS:
        raise DeviceError(
            f"`--device` names a board, and `{name_or_path}` is none",
            f"Give for example `--device rpi5`, or `--device {HOST}` for this machine; {_LISTED}",
        )
    listing = f"{_LISTED}, and a path to a {_SUFFIX} file works as well"
    raise DeviceError(*unknown("device", name_or_path, _spellings(), listing=listing))


def _shipped() -> dict[str, Traversable]:
    folder = files(__package__) / "profiles"
    found = {file.name.removesuffix(_SUFFIX): file for file in folder.iterdir()}
    return dict(sorted(found.items()))


def _spellings() -> dict[str, str]:
    """What people may write for a board → its name, such as raspberry-pi-5 → rpi5."""
    known = {HOST: HOST}
    for device in list_devices():
        known[device.name] = device.name
        known[device.title.lower().replace(" ", "-")] = device.name
    return known


def _read(file: Traversable) -> DeviceProfile:
    meaning = (
        "docs/devices.md says what each field means, and `edgefuse devices show rpi5 --json` shows "
        "a profile that holds"
    )
    try:
        profile = msgspec.toml.decode(file.read_bytes(), type=DeviceProfile)
    except OSError as error:
        raise DeviceError(
            f"The device profile {file} cannot be read: {error.strerror}", _LISTED
        ) from error
    except msgspec.ValidationError as error:
        raise DeviceError(f"{file}: {_sentence(error)}", meaning) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DeviceError(f"{file} is no TOML: {error}", meaning) from error
    if profile.name != file.name.removesuffix(_SUFFIX):
        raise DeviceError(
            f"{file}: `name` is `{profile.name}`, which is not the name of the file",
            f"Rename the file to {profile.name}{_SUFFIX}, or change `name`",
        )
    return profile


def _sentence(error: msgspec.ValidationError) -> str:
    """`Expected … - at `$.clusters[0].count`` → `` `clusters[0].count`: expected … ``."""
    text, _, path = str(error).partition(" - at `$")
    where = path.strip(".`")
    return f"`{where}`: {text[0].lower()}{text[1:]}" if where else f"{text[0].lower()}{text[1:]}"


__all__ = ["list_devices", "load_device"]
