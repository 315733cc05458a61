"""The live monitor: what a run's JSONL files say, on a terminal. It only reads.

`tail` follows files, `history` keeps what was read in bounded memory, `state` puts a run together, `screen` draws it,
`cli` is the verb. One thread, but for the two slow questions (nvidia-smi, the diagnosis), which have one of their own.
"""
