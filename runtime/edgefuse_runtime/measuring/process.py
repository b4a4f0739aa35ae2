"""The process that `bench` measures: it loads a bundle, trains some steps, and does nothing else.

    python -m edgefuse_runtime.measuring.process BUNDLE WORKLOAD

WORKLOAD is a `Workload` as JSON; a message a line goes to stdout.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Generator
from itertools import cycle, islice
from math import prod
from pathlib import Path
from time import perf_counter

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from edgefuse_devices.errors import EdgeFuseError
from edgefuse_runtime.bundle.bundle import Bundle, open_bundle, open_engine
from edgefuse_runtime.data.batching import Feeds, token_ids_of
from edgefuse_runtime.engines.vocabulary import Vocabulary
from edgefuse_runtime.machine import memory
from edgefuse_runtime.optimizers.optimizer import state_elements
from edgefuse_runtime.session import onnxruntime

_BATCHES = 16
"""Drawn once and used in turn, so that the count of distinct tokens, and with it what their
embeddings cost, does not depend on the count of steps."""
_LEARNING_RATE = 2e-5
_FLOAT32 = 4
_PARENT_DEATH = 1
"""PR_SET_PDEATHSIG."""


class Workload(Struct, frozen=True, kw_only=True):
    """What to measure.

    Attributes:
        batch_size: Rows in a batch.
        sequence_length: Tokens in every row: none is padding.
        threads: Threads of the engine.
        warmup: Steps before those that count.
        steps: Steps that count.
        seed: Seed of the batches.
    """

    batch_size: int
    sequence_length: int
    threads: int
    warmup: int = 5
    steps: int = 50
    seed: int = 0


class Ready(Struct, frozen=True, kw_only=True, tag="ready"):
    """The next thing is the first step.

    Attributes:
        load_seconds: Time from the bundle's directory, digests checked, to here.
        base_rss_bytes: Resident memory of Python and its libraries, before the bundle was opened.
        vocabulary: Count of tokens that the tokenizer has.
        distinct_tokens: Count of tokens that occur in the batches.
        tokens_per_row: Count of tokens in a row, of all texts that it has.
        trained_bytes: Bytes of what trains, embeddings of absent tokens left out.
        optimizer_bytes: Bytes of the optimizer's states.
        engine_version: Version of the engine's package.
    """

    load_seconds: float
    base_rss_bytes: int
    vocabulary: int
    distinct_tokens: int
    tokens_per_row: int
    trained_bytes: int
    optimizer_bytes: int
    engine_version: str


class Stepped(Struct, frozen=True, tag="stepped"):
    """A step is done, warm-up included."""

    seconds: float


class Finished(Struct, frozen=True, tag="finished"):
    """All steps are done; the most that was ever resident in this process."""

    peak_rss_bytes: int


class Failed(Struct, frozen=True, tag="failed"):
    """An error of `edgefuse_devices.errors`, by its class's name."""

    kind: str
    problem: str
    hint: str


Message = Ready | Stepped | Finished | Failed


def measure(path: Path, workload: Workload) -> Generator[Message, None, None]:
    """Load a bundle and train.

    Args:
        path: The bundle's directory.
        workload: What to measure.

    Yields:
        `Ready`, `Stepped` for every step, `Finished`.

    Raises:
        EdgeFuseError: The bundle or its engine does not hold.
    """
    onnxruntime()  # before the base, which counts it in
    base = memory.resident()
    begin = perf_counter()
    bundle = open_bundle(path)
    vocabulary = np.array(sorted(bundle.tokenizer().get_vocab().values()))
    batches = random_batches(bundle, workload, vocabulary)
    texts = [text for feeds in batches for text in token_ids_of(feeds)]
    token_ids = np.unique(np.concatenate([text.ravel() for text in texts]))
    engine = open_engine(bundle, threads=workload.threads, token_ids=token_ids)
    shapes = _trained_shapes(bundle, token_ids)
    yield Ready(
        load_seconds=perf_counter() - begin,
        base_rss_bytes=base,
        vocabulary=len(vocabulary),
        distinct_tokens=len(token_ids),
        tokens_per_row=sum(t.size for t in token_ids_of(batches[0])) // workload.batch_size,
        trained_bytes=_FLOAT32 * sum(map(prod, shapes)),
        optimizer_bytes=_FLOAT32 * state_elements(bundle.manifest.optimizer, shapes),
        engine_version=bundle.manifest.engine.installed(),
    )
    for feeds in islice(cycle(batches), workload.warmup + workload.steps):
        begin = perf_counter()
        engine.step(feeds, _LEARNING_RATE)
        yield Stepped(perf_counter() - begin)
    yield Finished(memory.peak_resident())


def random_batches(
    bundle: Bundle, workload: Workload, vocabulary: NDArray[np.int64]
) -> list[Feeds]:
    """Batches of full length, the same for the same seed.

    Args:
        bundle: The bundle whose graph takes them.
        workload: Shape and seed of the batches.
        vocabulary: Token ids to draw from; the padding is not drawn.
    """
    manifest = bundle.manifest
    rng = np.random.default_rng(workload.seed)
    shape = (workload.batch_size, workload.sequence_length)
    tokens = vocabulary[vocabulary != manifest.padding_id]
    return [manifest.task.random_feeds(rng, shape, tokens) for _ in range(_BATCHES)]


def _trained_shapes(bundle: Bundle, token_ids: NDArray[np.int64]) -> list[tuple[int, ...]]:
    manifest = bundle.manifest
    rows = Vocabulary.of(
        manifest.parameters,
        token_ids if manifest.engine.frees_rows else None,
        padding_id=manifest.padding_id,
    )
    return [rows.shape(parameter) for parameter in manifest.parameters]


def _end_with_parent() -> None:
    """Let Linux kill this process when the one that measures ends, however that does (prctl(2))."""
    control = getattr(ctypes.CDLL(None), "prctl", None)
    if control is not None:
        control(_PARENT_DEATH, signal.SIGKILL)


def main() -> None:
    """Print the messages; whatever else is printed in this process goes to stderr."""
    _end_with_parent()
    path, workload = Path(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=Workload)
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0) as pipe:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        try:
            for message in measure(path, workload):
                pipe.write(msgspec.json.encode(message) + b"\n")
        except EdgeFuseError as error:
            failed = Failed(type(error).__name__, error.problem, error.hint)
            pipe.write(msgspec.json.encode(failed) + b"\n")
        except (KeyboardInterrupt, BrokenPipeError):
            sys.exit(130)


if __name__ == "__main__":
    main()
