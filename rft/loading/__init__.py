"""Checkpoint to model without a whole copy a rank: the shards' reader, the streamed loader, where the weights lie."""
