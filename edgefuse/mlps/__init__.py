"""Where MLPs and matrices lie in a model: found, read, replaced and verified.

May import `layers` and `hub`.
"""
