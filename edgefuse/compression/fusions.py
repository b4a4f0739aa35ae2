"""MLP Fusion and the ablations that it is held against: methods that make MLPs smaller.

`edgefuse compress --help` reads their names and options: what computes is imported when it is
called.
"""

from typing import TYPE_CHECKING

from edgefuse.compression.method import Plan
from edgefuse.compression.reduction import Reduction

if TYPE_CHECKING:
    from edgefuse.compression.plan import LayerPlan
    from edgefuse.hub.source import ModelSource
    from edgefuse.mlps.low_rank import Replacement
    from edgefuse.mlps.mlp import MLP
    from edgefuse.mlps.neurons import Layer

_FUSION = (
    "Wei et al., NTK-approximating MLP Fusion for Efficient Language Model Fine-tuning, "
    "ICML 2023, arXiv 2307.08941"
)
_WANDA = (
    "After Sun et al., A Simple and Effective Pruning Approach for Large Language Models, "
    "ICLR 2024, arXiv 2306.11695"
)
_FLAP = (
    "An et al., Fluctuation-based Adaptive Structured Pruning for Large Language Models, "
    "AAAI 2024, arXiv 2312.11983"
)


class Fusion(Reduction):
    """A reduction that goes from one MLP to the next."""

    def plan(self, source: "ModelSource", *, seed: int) -> Plan:
        """Plan which MLPs become how wide, and read the text."""
        from edgefuse.compression.fusion_plan import plan_fusion

        return plan_fusion(source, self, seed=seed)


class MLPFusion(Fusion):
    """Neurons chosen by what they do on text; without text, clustered."""

    name = "mlp-fusion"
    summary = "a few neurons stand for all, in the output and in the gradients"
    paper = _FUSION
    refits = True
    matches = True

    def reduce(self, layer: "Layer", width: int, seed: int) -> "Replacement":
        """Choose real neurons on text; without text, fuse as published."""
        from edgefuse.compression.methods.mlp_fusion import mlp_fusion

        return mlp_fusion(layer, width, seed)


class Published(Fusion):
    """MLP Fusion as published."""

    name = "published"
    summary = "MLP Fusion as published: neurons clustered by their weights"
    paper = _FUSION

    def reduce(self, layer: "Layer", width: int, seed: int) -> "Replacement":
        """Cluster neurons into centroids."""
        from edgefuse.compression.methods.mlp_fusion import published

        return published(layer, width, seed)


class Clustering(Fusion):
    """Clusters without P."""

    name = "clustering"
    summary = "clusters without multiplicities, for ReLU and gated MLPs"
    paper = f"{_FUSION}, ablation"

    def reduce(self, layer: "Layer", width: int, seed: int) -> "Replacement":
        """Cluster neurons into centroids scaled by √n."""
        from edgefuse.compression.methods.clustering import clustering

        return clustering(layer, width, seed)

    def misfit(self, mlp: "MLP", width: int) -> str | None:  # noqa: ARG002 - the interface
        """Why √n changes what the MLP computes; None where it does not."""
        from edgefuse.compression.methods.clustering import misfit

        return misfit(mlp.activation, gated=mlp.gated)


class Sketch(Fusion):
    """Neurons mixed at random."""

    name = "sketch"
    summary = "neurons mixed by a random matrix"
    paper = f"{_FUSION}, baseline"

    def reduce(self, layer: "Layer", width: int, seed: int) -> "Replacement":
        """Mix neurons by a Gaussian matrix."""
        from edgefuse.compression.methods.sketch import sketch

        return sketch(layer, width, seed)


class SketchTop(Fusion):
    """Neurons mixed at random, but for the largest."""

    name = "sketch-top"
    summary = "as sketch, and the neurons of the largest weights kept"
    paper = f"{_FUSION}, baseline"

    def reduce(self, layer: "Layer", width: int, seed: int) -> "Replacement":
        """Keep a third of the width, and mix the other neurons."""
        from edgefuse.compression.methods.sketch import sketch_top

        return sketch_top(layer, width, seed)


class MMD(Fusion):
    """A coreset of neurons."""

    name = "mmd"
    summary = "learned neurons whose distribution is nearest to the original's"
    paper = f"{_FUSION}, baseline"

    def reduce(self, layer: "Layer", width: int, seed: int) -> "Replacement":
        """Learn neurons of least maximum mean discrepancy."""
        from edgefuse.compression.methods.mmd import mmd

        return mmd(layer, width, seed)


class SVD(Fusion):
    """Matrices of low rank."""

    name = "svd"
    summary = "every matrix cut to one rank"
    paper = f"{_FUSION}, baseline"

    def reduce(self, layer: "Layer", width: int, seed: int) -> "Replacement":
        """Cut every matrix to a rank with as many parameters as the width has."""
        from edgefuse.compression.methods.svd import svd

        return svd(layer, width, seed)

    def misfit(self, mlp: "MLP", width: int) -> str | None:
        """Why the MLP cannot be cut to no more parameters than the width has."""
        from edgefuse.compression.methods.svd import misfit

        return misfit(mlp, width)

    def outcome(self, mlp: "MLP", plan: "LayerPlan") -> "LayerPlan":
        """All neurons stay, of matrices with fewer parameters."""
        from edgefuse.compression.methods.svd import outcome

        return outcome(mlp, plan)


class Prune(Fusion):
    """Neurons of large weights stay."""

    name = "prune"
    summary = "the neurons of the largest weights kept"
    paper = f"{_FUSION}, baseline"

    def reduce(self, layer: "Layer", width: int, seed: int) -> "Replacement":
        """Keep neurons by the norms of their weights."""
        from edgefuse.compression.methods.prune import prune

        return prune(layer, width, seed)


class PruneActivation(Fusion):
    """Neurons of large outputs stay."""

    name = "prune-activation"
    summary = "the neurons of the largest outputs on text kept"
    paper = _WANDA
    needs_text = True

    def reduce(self, layer: "Layer", width: int, seed: int) -> "Replacement":
        """Keep neurons by their outputs on text."""
        from edgefuse.compression.methods.prune import prune_activation

        return prune_activation(layer, width, seed)


class Flap(Fusion):
    """Neurons of outputs that vary stay."""

    name = "flap"
    summary = "the neurons kept whose outputs vary most on text; --refit fits the rest"
    paper = _FLAP
    needs_text = True

    def reduce(self, layer: "Layer", width: int, seed: int) -> "Replacement":
        """Keep neurons by how their outputs vary on text."""
        from edgefuse.compression.methods.prune import flap

        return flap(layer, width, seed)


class Random(Fusion):
    """New MLPs."""

    name = "random"
    summary = "new weights, which every method has to beat"
    paper = "Re-initialised, what every method has to beat"

    def reduce(self, layer: "Layer", width: int, seed: int) -> "Replacement":
        """Draw new weights."""
        from edgefuse.compression.methods.random import random

        return random(layer, width, seed)


FUSIONS: tuple[type[Fusion], ...] = (
    MLPFusion,
    Published,
    Clustering,
    Sketch,
    SketchTop,
    MMD,
    SVD,
    Prune,
    PruneActivation,
    Flap,
    Random,
)
