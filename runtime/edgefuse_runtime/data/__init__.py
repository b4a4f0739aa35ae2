"""Data files, token ids and batches, whatever the task.

May import `files`.
"""
