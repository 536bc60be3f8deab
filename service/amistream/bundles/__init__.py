"""Existing bundles, made by any tool: reading, verifying, copying, listing and removing them."""
