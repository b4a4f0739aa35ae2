"""Problem types of text classification: what a row has to say, and what is made of logits.

`problem.py` is their form, `registry.py` the list.
"""
