"""Bad input at scale: `make fuzz` for many inputs with a random seed, `test_fuzz.py` for a few with a fixed one.

case.py         one input as a plain value, and its text
schema_trees.py config trees drawn from the real schema, with wrong values, keys and types
strategies.py   what can be wrong with a config, an override, an argument, a run's folder; whole cases of each kind
damage.py       how damage is done to the files that are found in a run's folder
world.py        the folder that cases run in, and what must hold whatever they hold
limits.py       how long a case may take, and how much memory
search.py       hypothesis drives a world through the cases of one kind
worker.py       what a process of the fuzzer does
__main__.py     the command line: processes, progress, finds, and how a find is repeated
"""
