"""A graph whose weights are bound once, where they stand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse_runtime.session import bind_given, open_session, run_bound, taken_outputs


class BoundGraph:
    """A graph of a bundle's folder with its weights.

    Attributes:
        shapes: Shapes of what every run takes, by name; sizes that are free are texts.
        outputs: Names of what the graph gives.
    """

    def __init__(
        self,
        file: Path,
        tensors: Mapping[str, NDArray[Any]],
        *,
        threads: int,
        arena: bool = True,
        initializers: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        """Open the graph.

        Args:
            file: The .onnx file.
            tensors: Weights by name; what is not in C order is copied.
            threads: Intra-operator threads of ONNX Runtime.
            arena: Whether runs take their memory from the arena that all sessions share.
            initializers: Data of those of the graph's initializers that are not in its file.
        """
        self._initializers = initializers  # the session reads them where they are
        self._session = open_session(file, threads=threads, arena=arena, initializers=initializers)
        self._binding = self._session.io_binding()
        self.shapes: dict[str, list[int | str]] = {}
        for value in self._session.get_inputs():
            if value.name in tensors:
                tensor = np.asarray(tensors[value.name], order="C")
                self._binding.bind_cpu_input(value.name, tensor)
            else:
                self.shapes[value.name] = value.shape
        self.outputs = [value.name for value in self._session.get_outputs()]
        for name in self.outputs:
            self._binding.bind_output(name, "cpu")

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Run the graph.

        Args:
            feeds: Arrays, or values of ONNX Runtime, by name; others than it takes do no harm.

        Returns:
            Values of ONNX Runtime by name.
        """
        for name in self.shapes:
            bind_given(self._binding, name, feeds[name])
        run_bound(self._session, self._binding)
        return taken_outputs(self._binding, self.outputs)
