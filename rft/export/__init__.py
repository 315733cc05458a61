"""Out of training: a trained adapter as a standalone checkpoint, as GGUF, on the hub, and tools that run it."""
