"""Engines: forward, backward and optimizer over a bundle, a file each.

`engine.py` is the seam, `registry.py` the list. May import `optimizers`, `graph`, `data`, `session`
and `files`.
"""
