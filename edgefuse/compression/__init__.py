"""Compression for fine-tuning: MLP blocks found, planned, fused and reported."""
