"""Bundles that exist: reading, proving, copying, listing and removing them, whoever made them."""
