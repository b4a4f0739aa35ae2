"""Tasks: what a model is trained for, a file each.

`task.py` is the seam, `registry.py` the list. May import `data` and `files`.
"""
