"""The tiny gpt-oss: a checkpoint of a million parameters with every real trait, its data, its run's summary."""
