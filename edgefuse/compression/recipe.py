"""What is done to each MLP, stage after stage."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from edgefuse.compression.distillation_settings import ENCODERS, DistillationSettings
from edgefuse.compression.methods.svd import refactorise
from edgefuse.compression.multiplicity import match_kernel
from edgefuse.compression.reduction import Reduction
from edgefuse.compression.refit import refit
from edgefuse.compression.teaching import teach
from edgefuse.mlps.low_rank import LowRank, Replacement
from edgefuse.mlps.neurons import Layer


@dataclass(frozen=True)
class Recipe:
    """A method and the stages behind it.

    Attributes:
        method: What gives the narrow MLP.
        refits: Whether its output is then fitted to the original's, in closed form.
        teaches: Whether it is then taught by the original.
        allocates: Whether widths are first shared out anew, by sensitivity.
        seed: Seed of the method and of teaching.
    """

    method: Reduction
    refits: bool
    teaches: bool
    seed: int
    allocates: bool = False

    @torch.no_grad()
    def reduce(
        self,
        layer: Layer,
        width: int,
        *,
        teaching_inputs: Tensor | None = None,
        settings: DistillationSettings = ENCODERS,
    ) -> Replacement:
        """Make what takes an MLP's place; `match` goes last.

        Args:
            layer: The MLP, with inputs where a stage needs them.
            width: k, the width to keep.
            teaching_inputs: Inputs that it is taught on, if not `layer.inputs`.
            settings: How it is taught.
        """
        reduced = self.method.reduce(layer, width, self.seed)
        if self.refits:
            reduced = refit(layer, reduced)
        if self.teaches:
            inputs = layer.inputs if teaching_inputs is None else teaching_inputs
            given = replace(layer, inputs=inputs)
            reduced = teach(given, reduced, self.seed, epochs=settings.alone)
        return reduced

    @torch.no_grad()
    def match(self, layer: Layer, reduced: Replacement) -> Replacement:
        """Choose P or the factors of products, when the rest is done: the output stays as it is."""
        if isinstance(reduced, LowRank):
            return refactorise(reduced) if self.refits or self.teaches else reduced
        if not self.method.matches or layer.inputs is None:
            return reduced
        return match_kernel(layer, reduced)
