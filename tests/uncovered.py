"""Coverage looks away where libraries alone compute: tracing them costs as much as they do."""

import functools
import sys
from collections.abc import Callable
from importlib import import_module

LIBRARY_CALLS = {  # none of them calls back into EdgeFuse, but for operators of its own
    "edgefuse_export.gradient": ("_decompose_exported_program", "_traced", "convert_version"),
    "edgefuse_export.passes.simplify": ("_FIRST", "_LAST", "fold_constants"),
    "onnxscript.optimizer": ("fold_constants", "optimize"),
    "onnxscript.rewriter": ("rewrite",),
    "torch.export": ("export",),
    "torch.onnx._internal.exporter._core": ("_prepare_exported_program_for_export",),
}


def look_away() -> None:
    """Replace the calls of `LIBRARY_CALLS`, in modules that are loaded, by untraced ones."""
    for name, functions in LIBRARY_CALLS.items():
        if name in sys.modules:
            module = import_module(name)
            for function in functions:
                setattr(module, function, _untraced(getattr(module, function)))


def _untraced(function: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(function)
    def call(*arguments: object, **options: object) -> object:
        tracer = sys.gettrace()
        sys.settrace(None)
        try:
            return function(*arguments, **options)
        finally:
            sys.settrace(tracer)

    return call
