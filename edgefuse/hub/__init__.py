"""Models and tokenizers as transformers has them: found, checked, loaded and saved.

Imports nothing else of edgefuse, and of the lower houses the runtime and the devices.
"""
