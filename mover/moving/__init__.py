"""The general verb: copy or move a tree, a list or what a condition selects, from any tier to any other.

Read first: `decide/moving.py` (every judgement), then `plan.py` (what is frozen before the first byte), `move.py`
(shards of entries), `release.py` (the second half of a move, D14). `verify.py` re-reads what stands.
"""
