"""What training costs on the machine at hand.

May import `inference`, `bundle` and what is below them.
"""
