"""Optimizer graphs, a file each."""
