"""`edgefuse export` and `edgefuse plan` as plain functions: model, way and task become a request.

May import `tuning`, `artifact` and what is below them, and `edgefuse_export`.
"""
