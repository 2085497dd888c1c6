"""``make faults``: what feilun promises under faults, tried and counted (RELIABILITY cases 1 to 24).

Each case is a function that breaks something under load and counts how often everything held. Beside it stands a
positive control: the same check on a gateway with a planted bug, which it must catch. See ``faults/__main__.py``.
"""
