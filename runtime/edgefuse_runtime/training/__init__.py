"""Runs: the loop, checkpoints, records and the schedule; and `fit`, steps without a run.

May import `inference`, `bundle` and what is below them.
"""
