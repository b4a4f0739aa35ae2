"""Optimizers over flat buffers, a file each."""
