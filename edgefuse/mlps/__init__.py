"""Find the MLPs and matrices of a model, read them, put others in their place, and verify them.

    mlp.py           MLPs, found by their structure
    layout.py        where an MLP's tensors lie in a state dict, as data
    file_layouts.py  where they lie in a model's files
    neurons.py       neurons of one MLP, whatever holds them
    low_rank.py      an MLP whose matrices are products of two thin ones
    install.py       fused neurons in an MLP's place
    inputs.py        what reaches an MLP while its model runs
    verify.py        whether an MLP computes what its structure promises
    matrices.py      matrices that can become chains
    unstack.py       stacks of experts, taken apart

May import `layers` and `hub`.
"""
