"""Ways of tuning: what of a model trains.

`way.py` is the seam and `ways/` has a file for each way; the modules beside them put into a model
what some ways add. May import `artifact` and what is below it.
"""
