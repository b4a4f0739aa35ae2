"""Checks that a machine computes what torch did at export: batches and texts with their results.

May import `inference` and what is below it. Export writes what `doctor` replays.
"""
