"""Cutting bonds as far as a task allows, with a trainer for the workstation.

May import everything below the command line.
"""
