"""The compressed model directory: saved, loaded and folded.

May import `mlps`, `layers` and `hub`.
"""
