"""What is done to each MLP, stage after stage."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from edgefuse.compression.methods import Method
from edgefuse.compression.methods.svd import refactorise
from edgefuse.compression.multiplicity import match_kernel
from edgefuse.compression.refit import refit
from edgefuse.compression.teaching import teach
from edgefuse.mlps.low_rank import LowRank, Replacement
from edgefuse.mlps.neurons import Layer


@dataclass(frozen=True)
class Recipe:
    """A method and the stages behind it.

    Attributes:
        method: Gives the narrow MLP.
        refits: Its output is then fitted to the original's, in closed form.
        tunes: It is then taught by the original.
        allocates: Widths are first shared out anew, by sensitivity.
        seed: Of method and tuning.
    """

    method: Method
    refits: bool
    tunes: bool
    seed: int
    allocates: bool = False

    @torch.no_grad()
    def reduce(self, layer: Layer, width: int, *, tune_inputs: Tensor | None = None) -> Replacement:
        """Make what takes an MLP's place; `match` goes last.

        Args:
            layer: The MLP; with inputs where a stage needs them.
            width: k.
            tune_inputs: What it is taught on, if not on `layer.inputs`.
        """
        reduced = self.method.reduce(layer, width, self.seed)
        if self.refits:
            reduced = refit(layer, reduced)
        if self.tunes:
            inputs = layer.inputs if tune_inputs is None else tune_inputs
            reduced = teach(replace(layer, inputs=inputs), reduced, self.seed)
        return reduced

    @torch.no_grad()
    def match(self, layer: Layer, reduced: Replacement) -> Replacement:
        """Choose P or the factors of products, when the rest is done: the output stays as it is."""
        if isinstance(reduced, LowRank):
            return refactorise(reduced) if self.refits or self.tunes else reduced
        if not self.method.matches or layer.inputs is None:
            return reduced
        return match_kernel(layer, reduced)
