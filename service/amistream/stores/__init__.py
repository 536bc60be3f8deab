"""Stores for bundles: an adapter of `ports.store.Store` for each kind of location, and `opening`, which makes them."""
