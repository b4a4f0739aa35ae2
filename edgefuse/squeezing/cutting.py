"""Bonds of a model's chains are cut a step further, where a task needs them least."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from edgefuse.compression.chains.bonds import Cuts
from edgefuse.layers.chains.decomposition import canonical
from edgefuse.layers.chains.modules import Chain, chains_of


@torch.no_grad()
def make_canonical(model: nn.Module) -> None:
    """Bring all chains to canonical form, in place: each direction of a bond by itself."""
    for chain in chains_of(model).values():
        _put_canonical(chain, chain.tensors)


@torch.no_grad()
def cut_chains(
    model: nn.Module, count: int, importance: Mapping[str, Sequence[np.ndarray]]
) -> bool:
    """Leave directions of bonds out, one after the other, in place.

    What is left out next is always what costs least for each parameter that goes with it. Chains
    of no importance at all stay whole: nothing used them, as with experts that no token reached.

    Args:
        model: A model whose chains are canonical.
        count: Parameters to cut, at the least.
        importance: Cost of each direction's absence, at every bond of every chain, by its name.

    Returns:
        Whether anything could be cut.
    """
    chains = {n: c for n, c in chains_of(model).items() if any(one.any() for one in importance[n])}
    if not chains:
        return False
    orders = {
        name: [np.argsort(-one, kind="stable") for one in importance[name]] for name in chains
    }
    costs = [
        [one[order] for one, order in zip(importance[name], orders[name], strict=True)]
        for name in chains
    ]
    cuts = Cuts([chain.tensors for chain in chains.values()], costs)
    before = cuts.parameters
    cuts.go_on(lambda: cuts.parameters > before - count)
    for (name, chain), bonds in zip(chains.items(), cuts.bonds, strict=True):
        if bonds != chain.bonds:
            tensors = list(chain.tensors)
            for m, (order, bond) in enumerate(zip(orders[name], bonds, strict=True)):
                kept = torch.from_numpy(np.sort(order[:bond])).to(chain.central.device)
                tensors[m] = tensors[m].index_select(-1, kept)
                tensors[m + 1] = tensors[m + 1].index_select(0, kept)
            _put_canonical(chain, tensors)
    return cuts.parameters < before


def _put_canonical(chain: Chain, tensors: Sequence[Tensor]) -> None:
    """What one bond lost another may carry for nothing: in canonical form, that is dropped."""
    canonical_form = canonical([tensor.cpu() for tensor in tensors])
    chain.put([tensor.to(chain.central).contiguous() for tensor in canonical_form.tensors])
