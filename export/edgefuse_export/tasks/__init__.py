"""Tasks: the loss that is exported and what goes with it, a file each.

`task.py` is the seam, `registry.py` the list.
"""
