"""A batch of the certificate, computed again on this machine."""

from msgspec import Struct

from edgefuse_runtime.checking.batches import CheckedBatch
from edgefuse_runtime.checking.summary import floor_of, summarize
from edgefuse_runtime.checking.tolerances import beyond_rounding, nan_last
from edgefuse_runtime.engines.engine import Engine
from edgefuse_runtime.inference.model import InferenceModel


class Replay(Struct, frozen=True, kw_only=True):
    """How far this machine's results are from torch's.

    Attributes:
        shape: (rows, tokens).
        loss: Loss of torch.
        loss_difference: |loss − loss of torch|.
        gradient_norm_error: |norm − norm of torch| / norm of torch.
        gradients: Count of gradients compared; 0 where the engine gives none out.
        worst_gradient: The parameter whose gradient differs most; empty where none is compared.
        worst_gradient_error: Difference of that gradient in norm or projection, as a part of the
            norm.
        output_error: The same of the outputs, the largest of all.
    """

    shape: tuple[int, int]
    loss: float
    loss_difference: float
    gradient_norm_error: float
    gradients: int
    worst_gradient: str
    worst_gradient_error: float
    output_error: float

    @property
    def problem(self) -> str:
        """What differs by more than rounding does, as a sentence without its end; or nothing."""
        rows, tokens = self.shape
        problem = beyond_rounding(
            loss=self.loss_difference,
            loss_size=self.loss,
            outputs=self.output_error,
            worst_gradient=self.worst_gradient,
            gradient=self.worst_gradient_error,
            norm=self.gradient_norm_error,
        )
        return problem and f"At {rows} × {tokens} tokens the {problem}"


def replay(batch: CheckedBatch, engine: Engine, model: InferenceModel) -> Replay:
    """Compute a batch again and compare.

    Args:
        batch: A batch with what torch computed.
        engine: The bundle's engine, at the parameters of the batch; it does not move them.
        model: The bundle's inference graph with the same parameters.
    """
    step, gradients = engine.gradients(batch.feeds)
    floor = floor_of(max((summary.norm for summary in batch.gradients.values()), default=0.0))
    errors = {
        name: expected.difference(summarize(gradients[name], key), floor=floor)
        for key, (name, expected) in enumerate(batch.gradients.items())
        if name in gradients
    }
    worst = max(errors, key=lambda name: nan_last(errors[name]), default="")
    outputs = model.run(batch.feeds)
    distance = abs(step.gradient_norm - batch.gradient_norm)
    return Replay(
        shape=batch.shape,
        loss=batch.loss,
        loss_difference=abs(step.loss - batch.loss),
        gradient_norm_error=distance / (batch.gradient_norm + floor_of(0.0)),
        gradients=len(errors),
        worst_gradient=worst,
        worst_gradient_error=errors.get(worst, 0.0),
        output_error=max(
            (
                expected.difference(summarize(outputs[name], key), floor=floor_of(0.0))
                for key, (name, expected) in enumerate(sorted(batch.outputs.items()))
            ),
            key=nan_last,
            default=0.0,
        ),
    )
