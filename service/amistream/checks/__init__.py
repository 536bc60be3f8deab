"""Everything that can be known before the first byte is read."""
