"""Chains of a model that are cut where they stand."""

import torch
from torch import nn

from edgefuse.mpo.bonds import cut_to_parameters
from edgefuse.mpo.decomposition import canonical, parameter_count
from edgefuse.mpo.layers import Chain


@torch.no_grad()
def cut_chains(model: nn.Module, step: float) -> bool:
    """Cut that part of the parameters of all chains, in place, by their spectra as they are now.

    Returns:
        Whether anything could be cut.
    """
    chains = [module for module in model.modules() if isinstance(module, Chain)]
    mpos = [canonical([tensor.cpu() for tensor in chain.tensors]) for chain in chains]
    parameters = sum(parameter_count(mpo.dimensions, mpo.bonds)[0] for mpo in mpos)
    bonds = cut_to_parameters(mpos, int(parameters * (1 - step)))
    for chain, mpo, own in zip(chains, mpos, bonds, strict=True):
        if own != mpo.bonds:
            tensors = canonical(mpo.truncate(own).tensors).tensors
            chain.put([tensor.to(chain.central).contiguous() for tensor in tensors])
    return any(own != mpo.bonds for mpo, own in zip(mpos, bonds, strict=True))
