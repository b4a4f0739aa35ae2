"""Runs: the loop, checkpoints, records and the schedule."""
