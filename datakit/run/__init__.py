"""Running a plan: one shard in a worker, many on a pool."""
