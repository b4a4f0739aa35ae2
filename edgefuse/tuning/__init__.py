"""Ways of tuning: what of a model trains, a file each.

May import `artifact` and what is below it.
"""
