"""The bundle: the one thing that export and runtime share.

May import `engines`, `tasks`, `optimizers`, `graph` and `files`.
"""
