"""The demo: a data set that EdgeFuse makes itself, and a walk through the whole job.

It runs commands as processes, so it imports nothing of the command line.
"""
