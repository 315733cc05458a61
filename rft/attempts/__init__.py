"""Attempts: a branch, a question written before the run, a tag on its commit, and an entry in the research log."""
