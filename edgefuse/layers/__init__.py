"""Modules that stand in a model in place of others, each with a way back to the plain one.

May import `hub`.
"""
