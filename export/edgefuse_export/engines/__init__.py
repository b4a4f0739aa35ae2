"""Engines: what each needs in a bundle, a file each.

`engine.py` is the seam, `registry.py` the list.
"""
