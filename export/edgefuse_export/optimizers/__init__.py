"""Optimizers: the graph of a step, a file each.

`registry.py` is the list.
"""
