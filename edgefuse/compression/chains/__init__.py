"""Compression of matrices to matrix product operators: bonds, limits and records."""
