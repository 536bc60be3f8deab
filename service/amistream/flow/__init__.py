"""Moves payload: worker threads that carry blocks in order, shared buffers, retries, and undoing."""
