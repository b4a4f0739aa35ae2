"""Data files, token ids and batches."""
