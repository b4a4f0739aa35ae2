"""How one MLP is made smaller, a way a file; the list of methods is in `compression/fusions.py`."""
