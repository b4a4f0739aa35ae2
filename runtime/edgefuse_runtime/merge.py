"""Plain weights from the tensors that train in their place, as the manifest's merges say."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse_runtime.bundle import LowRankUpdate, Merge

_Tensors = Mapping[str, NDArray[Any]]


def merged(merges: Sequence[Merge], tensors: _Tensors) -> dict[str, NDArray[Any]]:
    """Every tensor of a plain model: weights that merges make, and none that they are made of.

    Args:
        merges: Recipes, of which none reads what another makes.
        tensors: Frozen and trained ones by name. Not changed.
    """
    made = {recipe.weight: _make(recipe, tensors) for recipe in merges}
    taken = {name for recipe in merges for name in recipe.parts}
    return {**{name: t for name, t in tensors.items() if name not in taken}, **made}


def _make(recipe: Merge, tensors: _Tensors) -> NDArray[np.float32]:
    match recipe:
        case LowRankUpdate():
            return _low_rank_update(recipe, tensors)


def _low_rank_update(recipe: LowRankUpdate, tensors: _Tensors) -> NDArray[np.float32]:
    """W + scale · B A (Hu et al., LoRA, arXiv 2106.09685, section 4.1)."""
    update = tensors[recipe.b] @ tensors[recipe.a]
    update *= np.float32(recipe.scale)
    weight: NDArray[np.float32] = tensors[recipe.weight] + (
        update.T if recipe.transposed else update
    )
    return weight
