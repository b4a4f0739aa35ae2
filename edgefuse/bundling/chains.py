"""Chains are plain matrices in inference: the model that has these, and how they are made."""

from dataclasses import replace

from torch import nn
from transformers import PreTrainedModel

from edgefuse.hub.copies import share
from edgefuse.layers.chains.decomposition import CENTRAL
from edgefuse.layers.chains.modules import MPOLinear, chains_of
from edgefuse.layers.stand_ins import merge_chains
from edgefuse.tuning.extend import extend_like
from edgefuse.tuning.way import Prepared
from edgefuse_runtime.graph.merges import MatrixProduct


def plain_form(model: PreTrainedModel) -> PreTrainedModel:
    """Make a model whose chains are plain matrices, P standalone; it shares all other tensors.

    What extends a chain, as an adapter does, extends the matrix.
    """
    plain = share(model)
    chains = chains_of(plain)
    merge_chains(plain)
    for name, chain in chains.items():
        extend_like(plain.get_submodule(name), chain)
    return plain


def merge_chains_too(model: PreTrainedModel, prepared: Prepared) -> Prepared:
    """Add the merges of a model's chains to those of a way of tuning."""
    products = matrix_products(model)
    if not products:
        return prepared
    return replace(
        prepared,
        inference=plain_form(prepared.inference or model),
        merges=[*products, *prepared.merges],  # in order: a way may update the matrix of a chain
    )


def matrix_products(model: nn.Module) -> list[MatrixProduct]:
    """Describe how every chain's matrix is made, by the names of its tensors in the state dict."""
    own = {id(parameter): name for name, parameter in model.named_parameters()}  # a shared one's
    products = []
    for name, chain in chains_of(model).items():
        auxiliary = [f"{name}.auxiliary.{index}" for index in range(len(chain.auxiliary))]
        central = own[id(chain.central)]
        products.append(
            MatrixProduct(
                weight=f"{name}.weight",
                tensors=[*auxiliary[:CENTRAL], central, *auxiliary[CENTRAL:]],
                rows=chain.rows,
                transposed=isinstance(chain, MPOLinear) and chain.transposed,
            )
        )
    return products
