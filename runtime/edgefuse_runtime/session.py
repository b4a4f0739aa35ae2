"""The one place that imports onnxruntime and decides how its sessions run."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse_devices.errors import OUT_OF_MEMORY, BundleError, EdgeFuseError, InputError
from edgefuse_runtime.machine import memory
from edgefuse_runtime.onnx_graph import check_graph

_NOTHING_BUT_FATAL = 4
_NO_MEMORY = re.compile(
    r"bad.?alloc|failed to allocate|out of memory|available memory of", re.IGNORECASE
)


@cache
def onnxruntime() -> Any:
    """Import onnxruntime, whose telemetry is off, and set up the arena that sessions share.

    Raises:
        InputError: It is not installed.
    """
    try:
        import onnxruntime as ort  # noqa: PLC0415 - `import edgefuse_runtime` works without it
    except ImportError as error:
        raise InputError(
            f"onnxruntime cannot be imported ({error})",
            "Install it with: pip install 'edgefuse[runtime]'",
        ) from error
    ort.set_default_logger_severity(_NOTHING_BUT_FATAL)
    # The arena doubles with every growth unless told to take what is asked for. What the machine
    # does not have is refused, before Linux ends the process: a graph may ask for anything.
    ort.create_and_register_allocator(
        ort.OrtMemoryInfo(
            "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
        ),
        ort.OrtArenaCfg({"arena_extend_strategy": 1, "max_mem": memory.obtainable()}),
    )
    return ort


def session_options(*, threads: int, arena: bool = True) -> Any:
    """Make the `onnxruntime.SessionOptions` of every session, of either engine.

    Args:
        threads: Intra-operator threads.
        arena: Whether runs take their memory from the shared arena. It gives nothing back, and what
            is a little larger at every run, as keys and values are, finds no place in what is free.

    Raises:
        InputError: onnxruntime is not installed.
    """
    options = onnxruntime().SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _NOTHING_BUT_FATAL
    # A memory pattern is a second arena, made anew for every shape of batch.
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = arena
    options.add_session_config_entry("session.use_env_allocators", "1" if arena else "0")
    # Spin between operators, which is fast, but not between runs, where the threads of another
    # session (the optimizer's, say) want the cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


@contextmanager
def graph_errors(
    problem: str = "a graph of the bundle failed",
    hint: str = "Export the bundle anew; if that fails as well, it is a mistake of ours",
) -> Iterator[None]:
    """Make sentences of what ONNX Runtime raises.

    Args:
        problem: What to say of anything but memory, before ONNX Runtime's own words.
        hint: What to do about it.

    Raises:
        InputError: There is not enough memory.
        BundleError: It failed otherwise, as a graph does that is given a token id which its model
            does not have.
    """
    try:
        yield
    except EdgeFuseError:
        raise
    except Exception as error:  # onnxruntime's own exceptions share no base but this
        message = " ".join(str(error).split())
        if isinstance(error, MemoryError) or _NO_MEMORY.search(message):
            raise InputError(*OUT_OF_MEMORY) from error
        raise BundleError(f"{problem}: {message}", hint) from error


def run_bound(session: Any, binding: Any) -> None:
    """Run an `onnxruntime.InferenceSession` over what its `onnxruntime.IOBinding` binds.

    Raises:
        InputError: There is not enough memory.
        BundleError: The graph failed otherwise; see `graph_errors`.
    """
    with graph_errors():
        session.run_with_iobinding(binding)


def bind_given(binding: Any, name: str, value: Any) -> None:
    """Bind what a run is given to an input.

    Args:
        binding: An `onnxruntime.IOBinding`.
        name: Name of the input.
        value: An array, or a value of ONNX Runtime.
    """
    if isinstance(value, np.ndarray | np.generic):
        binding.bind_cpu_input(name, np.asarray(value, order="C"))
    else:
        binding.bind_ortvalue_input(name, value)


def array_of(value: Any) -> NDArray[Any]:
    """What `bind_given` takes, as an array."""
    return value if isinstance(value, np.ndarray) else value.numpy()


def taken_outputs(binding: Any, names: Sequence[str]) -> dict[str, Any]:
    """Take what a run gave out of its binding, which gives new memory at the next run.

    Up to onnxruntime 1.28 `IOBinding.get_outputs` gives references into the binding: they end with
    what they refer to. A vector of its own holds each value as long as somebody has it.

    Args:
        binding: An `onnxruntime.IOBinding` that ran.
        names: The last outputs of it, in the order in which they were bound, to no memory yet.

    Returns:
        Values of ONNX Runtime (`OrtValue`) by name.
    """
    ort = onnxruntime()
    given = binding.get_outputs_as_ortvaluevector()
    taken = {}
    for index, name in enumerate(names, start=len(given) - len(names)):
        own = ort.capi.onnxruntime_pybind11_state.OrtValueVector()
        own.push_back(given[index])
        taken[name] = ort.OrtValue(own[0])
    for name in names:
        binding.bind_output(name, "cpu")
    return taken


def open_session(
    model: Path,
    *,
    threads: int,
    arena: bool = True,
    initializers: Mapping[str, NDArray[Any]] | None = None,
) -> Any:
    """Open an ONNX model on the CPU.

    Args:
        model: The .onnx file.
        threads: Intra-operator threads.
        arena: Whether runs take their memory from the arena that sessions share.
        initializers: Data that the model's initializers of these names have; they must outlive the
            session.

    Returns:
        An `onnxruntime.InferenceSession`.

    Raises:
        InputError: onnxruntime is not installed, or there is not enough memory.
        BundleError: The model has what no exported one has, or onnxruntime refuses it.
    """
    ort = onnxruntime()
    check_graph(model, given=initializers or ())
    options = session_options(threads=threads, arena=arena)
    if initializers:
        values = map(ort.OrtValue.ortvalue_from_numpy, initializers.values())
        options.add_external_initializers([*initializers], [*values])
    problem = f"onnxruntime {ort.__version__} cannot open {model}"
    with graph_errors(problem, "Copy the bundle again, or export it anew"):
        return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
