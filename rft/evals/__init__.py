"""Evaluation of models and checkpoints: modes, sets, records, engine, programs."""
