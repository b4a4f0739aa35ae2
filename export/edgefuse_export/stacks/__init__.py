"""Models that are a stack of like layers, in parts: what is before, a graph a kind, what follows.

`find.py` looks for the stack, `calls.py` runs up to it and on from it, `kinds.py` tells which
layers are alike, `modules.py` has the parts that are traced, `graphs.py` makes their graphs,
`joined.py` puts those together again for inference, and `training.py` is what an engine takes.
"""
