"""Models and tokenizers as transformers has them.

Imports nothing else of edgefuse.
"""
