"""The trainer: it consumes the shards of a run and nothing else of the engine, and makes an editor of them."""
