"""What `doctor` found out about a bundle on a machine."""

from msgspec import Struct

from edgefuse_devices.profile import DeviceProfile
from edgefuse_runtime.checking.replay import Replay


class Diagnosis(Struct, frozen=True, kw_only=True):
    """How a bundle does on the machine at hand.

    Attributes:
        healthy: Whether everything is as export left it.
        problems: What is not, a sentence each.
        hint: What to do about it; empty where there is nothing.
        bundle_id: Identity of the bundle.
        files: Count of the bundle's files, whose digests are the manifest's.
        file_bytes: Size of the files together.
        board: The board that the bundle was exported for.
        machine: The machine at hand.
        is_board: Whether that is the board, and no emulation of one.
        engine: Name of the engine.
        engine_version: Version of the engine's package here.
        exported_with: Version of the engine's package that the bundle was exported with.
        threads: Threads that were computed with.
        replays: Batches of the certificate that were computed again.
        texts: Count of texts whose token ids were compared.
        predicted_bytes: Memory that training is expected to hold, Python not counted.
        available_bytes: Memory that the machine can give now.
        peak_rss_bytes: The most that was ever resident in this process.
        python_version: Version of the interpreter.
        edgefuse_version: Version of the EdgeFuse that looked.
    """

    healthy: bool
    problems: list[str]
    hint: str
    bundle_id: str
    files: int
    file_bytes: int
    board: DeviceProfile
    machine: DeviceProfile
    is_board: bool
    engine: str
    engine_version: str
    exported_with: str
    threads: int
    replays: list[Replay]
    texts: int
    predicted_bytes: int
    available_bytes: int
    peak_rss_bytes: int
    python_version: str
    edgefuse_version: str
