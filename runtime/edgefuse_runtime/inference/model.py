"""The inference graph, with weights as training left them."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgefuse_runtime.bundle.bundle import Bundle
from edgefuse_runtime.data.batching import collate, evaluation_batches
from edgefuse_runtime.data.tokenization import TokenIds
from edgefuse_runtime.engines.engine import Batch
from edgefuse_runtime.inference.merge import along, merged
from edgefuse_runtime.session import open_session
from edgefuse_runtime.tasks.metrics import Logits


def inference_tensors(bundle: Bundle, trained: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every weight that inference takes by name: trained and frozen ones, merged, P folded in.

    What nothing is made of stays a view: of the trained parameter, or of the frozen weights' file.

    Args:
        bundle: An opened bundle.
        trained: Trained parameters, of a checkpoint or an engine.
    """
    tensors = merged(bundle.manifest.merges, {**bundle.frozen, **trained})
    folds = bundle.manifest.folds
    multiplicities = {fold.multiplicity: tensors.pop(fold.multiplicity) for fold in folds}
    for fold in folds:
        weight = tensors[fold.weight]
        p = along(multiplicities[fold.multiplicity], axis=fold.axis, rank=weight.ndim)
        tensors[fold.weight] = weight * p
    return tensors


class InferenceModel:
    """A bundle's classifier with given weights, used where they stand.

    What is merged, folded or not in C order is a copy: later changes do not reach it.
    """

    def __init__(self, bundle: Bundle, trained: Mapping[str, np.ndarray], *, threads: int) -> None:
        """Open inference.onnx.

        Args:
            bundle: An opened bundle.
            trained: Trained parameters by name.
            threads: Intra-operator threads of ONNX Runtime.
        """
        self._manifest = bundle.manifest
        self._session = open_session(bundle.path / "inference.onnx", threads=threads)
        self._binding = self._session.io_binding()
        tensors = inference_tensors(bundle, trained)
        inputs = {value.name for value in self._session.get_inputs()}
        for name in inputs - set(bundle.manifest.inputs):
            self._binding.bind_cpu_input(name, np.asarray(tensors[name], order="C"))

    def logits(self, batch: Batch) -> Logits:
        """Logits of a batch, of shape (batch, classes)."""
        for name, value in batch.inputs.items():
            self._binding.bind_cpu_input(name, np.ascontiguousarray(value))
        self._binding.bind_output("logits", "cpu")  # anew: batches differ in their rows
        self._session.run_with_iobinding(self._binding)
        logits: Logits = self._binding.copy_outputs_to_cpu()[0]
        return logits

    def classify(
        self, rows: Sequence[TokenIds], *, on_batch: Callable[[int], None] | None = None
    ) -> Logits:
        """Logits of any number of rows, in their order, of shape (rows, classes).

        Args:
            rows: Token ids of each row.
            on_batch: Called with the count of rows after each batch; it may raise to stop.
        """
        manifest = self._manifest
        logits = np.empty((len(rows), len(manifest.labels)), np.float32)
        lengths = np.array([len(row) for row in rows])
        for indices in evaluation_batches(lengths, manifest.batch_size):
            chosen = [rows[i] for i in indices]
            batch = collate(
                chosen, [0] * len(chosen), inputs=manifest.inputs, padding_id=manifest.padding_id
            )
            logits[indices] = self.logits(batch)
            if on_batch:
                on_batch(len(chosen))
        return logits
