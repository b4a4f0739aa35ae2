"""Layers that stand in a model for plain ones.

Each has one way in, the class method `from_plain`, and one way out: `plain()`, the plain layer that
computes the same in inference. `stand_ins.py` lists them all and folds a model.

    fused.py             W2 with the multiplicities P before it
    experts.py           a stack of experts with P, and how a graph can hold a stack
    low_rank.py          a matrix as a product of two thin ones
    chains/              a matrix as a chain of small tensors
    separate_experts.py  experts out of their stack, a module each

May import `hub`.
"""
