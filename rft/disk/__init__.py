"""Disk: what takes it up, what may go, and an end of training before it is full."""
