"""The methods of compression, in one list: MLP Fusion and the ablations that it is held against."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgefuse.compression.methods.clustering import clustering
from edgefuse.compression.methods.clustering import misfit as root_n_misfit
from edgefuse.compression.methods.mlp_fusion import mlp_fusion, published
from edgefuse.compression.methods.mmd import mmd
from edgefuse.compression.methods.prune import prune, prune_activation
from edgefuse.compression.methods.random import random
from edgefuse.compression.methods.sketch import sketch, sketch_top
from edgefuse.compression.methods.svd import misfit as svd_misfit
from edgefuse.compression.methods.svd import outcome as svd_outcome
from edgefuse.compression.methods.svd import svd
from edgefuse.compression.plan import LayerPlan
from edgefuse.mlps.low_rank import Replacement
from edgefuse.mlps.mlp import MLP
from edgefuse.mlps.neurons import Layer
from edgefuse_devices.errors import InputError
from edgefuse_devices.names import unknown

_FUSION = (
    "Wei et al., NTK-approximating MLP Fusion for Efficient Language Model Fine-tuning, "
    "ICML 2023, arXiv 2307.08941"
)
_WANDA = (
    "After Sun et al., A Simple and Effective Pruning Approach for Large Language Models, "
    "ICLR 2024, arXiv 2306.11695"
)


@dataclass(frozen=True)
class Method:
    """A way to make an MLP smaller.

    Attributes:
        name: As given to `--method`.
        paper: Where it comes from.
        reduce: From an MLP, a width and a seed to what takes its place.
        refits: With text, what it gives is refitted without being asked.
        matches: With text, P is matched to the kernel in the end.
        misfit: Why it does not suit an MLP and a width, as half a sentence; None where it does.
        outcome: From an MLP and its plan at a width to that of what takes its place, where that is
            not as wide.
        needs_text: Without text it has nothing to go by.
    """

    name: str
    paper: str
    reduce: Callable[[Layer, int, int], Replacement]
    refits: bool = False
    matches: bool = False
    misfit: Callable[[MLP, int], str | None] = lambda _mlp, _width: None
    outcome: Callable[[MLP, LayerPlan], LayerPlan] = lambda _mlp, plan: plan
    needs_text: bool = False

    def check(self, mlps: Sequence[MLP], widths: Sequence[int]) -> None:
        """Refuse MLPs that it does not suit at the widths that they are to have.

        Raises:
            InputError: It does not suit one; the message says why.
        """
        for mlp, width in zip(mlps, widths, strict=True):
            reason = self.misfit(mlp, width)
            if reason is not None:
                raise InputError(
                    f"The method {self.name} does not suit {mlp.name}: {reason}",
                    "Choose another --method",
                )


METHODS = (
    Method("mlp-fusion", _FUSION, mlp_fusion, refits=True, matches=True),
    Method("published", _FUSION, published),
    Method(
        "clustering",
        f"{_FUSION}, ablation",
        clustering,
        misfit=lambda mlp, _: root_n_misfit(mlp.activation, gated=mlp.gated),
    ),
    Method("sketch", f"{_FUSION}, baseline", sketch),
    Method("sketch-top", f"{_FUSION}, baseline", sketch_top),
    Method("mmd", f"{_FUSION}, baseline", mmd),
    Method(
        "svd",
        f"{_FUSION}, baseline",
        svd,
        misfit=svd_misfit,
        outcome=svd_outcome,
    ),
    Method("prune", f"{_FUSION}, baseline", prune),
    Method("prune-activation", _WANDA, prune_activation, needs_text=True),
    Method("random", "Re-initialised, what every method has to beat", random),
)


def find_method(name: str) -> Method:
    """The method of that name.

    Raises:
        InputError: There is none.
    """
    for method in METHODS:
        if method.name == name:
            return method
    raise InputError(*unknown("method", name, [*(method.name for method in METHODS), "mpo"]))
