"""The inference graph, with weights as training left them."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgefuse_runtime.bundle.bundle import Bundle
from edgefuse_runtime.data.batching import Dataset, Feeds, RowIndices, evaluation_batches
from edgefuse_runtime.graph.base import in_floats
from edgefuse_runtime.graph.merges import merged
from edgefuse_runtime.session import bind_tensor, open_session
from edgefuse_runtime.tasks.task import Outputs


def inference_tensors(bundle: Bundle, trained: Mapping[str, NDArray[Any]]) -> dict[str, np.ndarray]:
    """Every weight that inference takes, by name: trained and frozen ones, merged.

    Nothing is merged with a base in few bits: inference computes with it and the updates apart.
    What nothing is made of stays a view: of the trained parameter, or of the frozen weights' file.

    Args:
        bundle: An opened bundle.
        trained: Trained parameters of a checkpoint or an engine.
    """
    tensors = {**bundle.frozen, **trained}
    return tensors if bundle.manifest.base else merged(bundle.manifest.merges, tensors)


def plain_tensors(bundle: Bundle, trained: Mapping[str, NDArray[Any]]) -> dict[str, np.ndarray]:
    """Every weight of the plain model, by name: what is merged, and no codes but floats.

    Args:
        bundle: An opened bundle.
        trained: Trained parameters of a checkpoint or an engine.
    """
    return merged(bundle.manifest.merges, {**in_floats(bundle.frozen), **trained})


class InferenceModel:
    """A bundle's model with given weights, used where they stand.

    What is merged or not in C order is a copy: later changes do not reach it.

    Attributes:
        outputs: Names of what the graph gives.
    """

    def __init__(
        self, bundle: Bundle, trained: Mapping[str, NDArray[Any]], *, threads: int
    ) -> None:
        """Open inference.onnx.

        Args:
            bundle: An opened bundle.
            trained: Trained parameters by name.
            threads: Intra-operator threads of ONNX Runtime.
        """
        self._manifest = bundle.manifest
        self._bundle = bundle
        self._session = open_session(bundle.path / "inference.onnx", threads=threads)
        self.outputs = [value.name for value in self._session.get_outputs()]
        self._binding = self._session.io_binding()
        tensors = inference_tensors(bundle, trained)
        for value in self._session.get_inputs():
            if value.name not in bundle.manifest.inputs:
                bind_tensor(self._binding, value, tensors[value.name])

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The bundle's tokenizer, which cuts long texts."""
        return self._bundle.tokenizer()

    @property
    def padding_id(self) -> int:
        """Token id that pads."""
        return self._manifest.padding_id

    def run(self, feeds: Feeds) -> Outputs:
        """Outputs of a batch by their names; targets among the feeds are not looked at."""
        for name in self._manifest.inputs:
            self._binding.bind_cpu_input(name, np.ascontiguousarray(feeds[name]))
        for name in self.outputs:
            self._binding.bind_output(name, "cpu")  # anew: batches differ in their rows
        self._session.run_with_iobinding(self._binding)
        outputs = dict(zip(self.outputs, self._binding.copy_outputs_to_cpu(), strict=True))
        self._binding.clear_binding_outputs()  # what was copied would stay until the next run
        return outputs

    def over(self, dataset: Dataset) -> Iterator[tuple[RowIndices, Feeds, Outputs]]:
        """Run the model over any number of rows, in batches of like length.

        Args:
            dataset: Tokenized rows of the bundle's task.

        Yields:
            Indices of a batch's rows, what the model was fed, and what it gave.
        """
        manifest = self._manifest
        for indices in evaluation_batches(dataset.lengths, manifest.batch_size):
            examples = [dataset.examples[index] for index in indices]
            feeds = manifest.task.collate(examples, padding_id=manifest.padding_id)
            yield indices, feeds, self.run(feeds)
