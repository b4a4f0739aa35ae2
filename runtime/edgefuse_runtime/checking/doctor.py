"""Whether a bundle computes on this machine what torch did at export."""

import platform
from importlib.metadata import version

import psutil

from edgefuse_devices import __version__
from edgefuse_devices.errors import BundleError
from edgefuse_devices.probe import matches, probe
from edgefuse_runtime.bundle.bundle import Bundle, open_engine
from edgefuse_runtime.checking.batches import BATCHES, read_batches
from edgefuse_runtime.checking.diagnosis import Diagnosis
from edgefuse_runtime.checking.replay import Replay, replay
from edgefuse_runtime.checking.summary import without_zeros
from edgefuse_runtime.checking.texts import TEXTS, CheckedTexts, differing, read_texts
from edgefuse_runtime.inference.model import InferenceModel
from edgefuse_runtime.machine import memory
from edgefuse_runtime.machine.emulation import emulated
from edgefuse_runtime.machine.threads import threads_for
from edgefuse_runtime.progress import OnProgress, silent

_STAGES = ("Reading texts", "Opening the engine", "Computing batches again")
_LISTED = 60
"""Characters of a text that a sentence shows at most."""


def diagnose(
    bundle: Bundle, *, threads: int | None = None, on_progress: OnProgress = silent
) -> Diagnosis:
    """Replay a bundle's certificate on this machine; no file is written and no weight moves.

    Args:
        bundle: An opened bundle, its files verified.
        threads: Threads to compute with; None for the board's.
        on_progress: Observer, called before each stage.

    Raises:
        BundleError: The engine is not installed here, refuses the graphs, or the bundle has no
            certificate.
    """
    manifest = bundle.manifest
    for name in (BATCHES, TEXTS):
        if manifest.certificate is None or name not in manifest.files:
            raise BundleError(
                f"{bundle.path} has no certificate to compare with",
                "Export it again: edgefuse export MODEL BUNDLE --device NAME",
            )
    threads = threads_for(manifest.device, threads)
    on_progress(_STAGES[0], 0, len(_STAGES))
    texts = read_texts(bundle.path)
    problems = _text_problems(bundle, texts)
    replays = _replays(bundle, threads, on_progress)
    problems += [one.problem for one in replays if one.problem]
    installed, exported_with = manifest.engine.installed(), manifest.engine.version
    machine = probe()
    return Diagnosis(
        healthy=not problems,
        problems=problems,
        hint=_hint(manifest.engine.name, exported_with, texts) if problems else "",
        bundle_id=bundle.id,
        files=len(manifest.files),
        file_bytes=sum(entry.size for entry in manifest.files.values()),
        board=manifest.device,
        machine=machine,
        is_board=matches(manifest.device, machine) and not emulated(),
        engine=manifest.engine.name,
        engine_version=installed,
        exported_with=exported_with,
        threads=threads,
        replays=replays,
        texts=len(texts.texts),
        predicted_bytes=manifest.predicted_memory.total,
        available_bytes=int(psutil.virtual_memory().available),
        peak_rss_bytes=memory.peak_resident(),
        python_version=platform.python_version(),
        edgefuse_version=__version__,
    )


def _text_problems(bundle: Bundle, texts: CheckedTexts) -> list[str]:
    wrong = differing(bundle.tokenizer(), texts.texts)
    if not wrong:
        return []
    return [
        f"The tokenizer makes other token ids of {_shown(wrong[0])}"
        + (f" and {len(wrong) - 1} more texts" if len(wrong) > 1 else "")
    ]


def _shown(text: str) -> str:
    shown = repr(text)
    return shown if len(shown) <= _LISTED else f"{shown[:_LISTED]}…"


def _replays(bundle: Bundle, threads: int, on_progress: OnProgress) -> list[Replay]:
    names = [parameter.name for parameter in bundle.manifest.parameters]
    on_progress(_STAGES[1], 1, len(_STAGES))
    values = without_zeros(bundle.trainable())
    engine = open_engine(bundle, threads=threads)
    engine.set_parameters(values)
    model = InferenceModel(bundle, values, threads=threads)
    batches = read_batches(bundle.path, names, model.outputs)
    on_progress(_STAGES[2], 2, len(_STAGES))
    return [replay(batch, engine, model) for batch in batches]


def _hint(engine: str, exported_with: str, texts: CheckedTexts) -> str:
    here = version("tokenizers")
    return (
        f"Install {engine} {exported_with} and tokenizers {texts.tokenizers}, with which it was "
        f"exported (tokenizers here is {here}); if that does not help, report it with this "
        "machine's name"
    )
