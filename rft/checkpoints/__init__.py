"""Checkpoints beside the format itself (rft/checkpoint.py): the end on demand, the best one, the one to continue."""
