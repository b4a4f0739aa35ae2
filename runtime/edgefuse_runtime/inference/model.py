"""The inference graph, with weights as training left them."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgefuse_runtime.bundle.bundle import DECODING, Bundle
from edgefuse_runtime.data.batching import Dataset, Feeds, RowIndices, evaluation_batches, pad
from edgefuse_runtime.graph.base import Blocks, in_floats
from edgefuse_runtime.graph.merges import merged
from edgefuse_runtime.inference.bound import BoundGraph
from edgefuse_runtime.inference.continuation import Continuation
from edgefuse_runtime.tasks.task import NextLogits, Outputs


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
    """

    def __init__(
        self, bundle: Bundle, trained: Mapping[str, NDArray[Any]], *, threads: int
    ) -> None:
        """Take the weights; graphs are opened when they are needed.

        Args:
            bundle: An opened bundle.
            trained: Trained parameters by name.
            threads: Intra-operator threads of ONNX Runtime.
        """
        self._manifest = bundle.manifest
        self._bundle = bundle
        self._tensors = {
            name: np.asarray(tensor, order="C")
            for name, tensor in inference_tensors(bundle, trained).items()
        }
        self._threads = threads

    @property
    def outputs(self) -> list[str]:
        """Names of what the graph gives."""
        return self._graph.outputs

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
        return {name: value.numpy() for name, value in self._graph.run(feeds).items()}

    def next_logits(self) -> NextLogits:
        """A function that gives the logits after texts, and may remember what it read last.

        By decode.onnx, if the bundle has it; else every text is read as a whole.
        """
        if DECODING in self._manifest.files:
            return self.continuation()
        return self.read

    def continuation(self) -> Continuation:
        """Those logits by decode.onnx, with nothing read yet."""
        return Continuation(self._decoding, padding_id=self.padding_id)

    def read(self, texts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Those logits by inference.onnx, all of whose outputs are held."""
        rows = [np.array(text, np.int64) for text in texts]
        input_ids, mask = pad(rows, self.padding_id)
        logits = self.run({"input_ids": input_ids, "attention_mask": mask})["logits"]
        last: NDArray[np.float32] = logits[np.arange(len(rows)), mask.sum(axis=1) - 1]
        return last

    @cached_property
    def _graph(self) -> BoundGraph:
        return self._open("inference.onnx")

    @cached_property
    def _decoding(self) -> BoundGraph:
        base, frozen = self._manifest.base, self._bundle.frozen
        factors: dict[str, NDArray[Any]] = {}
        for name in base.multiplied if base else ():
            factors |= Blocks.of(frozen, name).factors(name)
        return self._open(DECODING, arena=False, initializers=factors)

    def _open(self, name: str, **options: Any) -> BoundGraph:
        file = self._bundle.path / name
        return BoundGraph(file, self._tensors, threads=self._threads, **options)

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
