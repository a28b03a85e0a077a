"""Experiments that reproduce published results on numerics; not part of the installed package.

Owns: their configs, and `python -m recipes.compare`, which runs one. Must not: be imported by mptrain.
"""
