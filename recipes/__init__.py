"""Experiments that reproduce published results on numerics; not part of the installed package.

Owns: their configs and sweep files, and tables of what `mptrain sweep` made of them (`table.py`, `overview.py`,
`timeline.py`). Must not: be imported by mptrain.
"""
