"""Finished sets of shards: written, published, read and verified."""
