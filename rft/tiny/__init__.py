"""The tiny gpt-oss: a checkpoint of about a million parameters with every real trait, its data, and the run's summary."""
