"""Optimizers: how gradients move what trains, a file each.

`optimizer.py` is the seam, `registry.py` the list, `runner.py` runs any of them. May import
`session`.
"""
