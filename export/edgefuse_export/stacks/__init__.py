"""Models that are a stack of like layers, in parts: what is before, a graph a kind, what follows.

`find.py` looks for the stack, `calls.py` runs up to it and on from it, `caches.py` gives a layer
its own part of a cache, `kinds.py` tells which layers are alike, `modules.py` has the parts that
are traced, `graphs.py` makes their graphs, `kept.py` cuts a layer's between forward and backward
pass, `joined.py` puts the forward graphs together again for inference, and `training.py` is what an
engine takes.
"""
