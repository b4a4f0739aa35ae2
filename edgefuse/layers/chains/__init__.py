"""Matrices as chains of small tensors (matrix product operators), and layers of them.

May import the modules of `layers` that are about single plain or fused layers.
"""
