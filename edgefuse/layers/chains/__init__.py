"""Matrices as chains of small tensors (matrix product operators), and layers of them."""
