"""What a bundle's graphs take and give, as data: parameters, merges and gradient masks.

May import `files`.
"""
