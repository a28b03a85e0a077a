"""`mptrain sweep`: many runs of a config, a process each, that can be stopped and gone on with. See `plan.py` first."""
