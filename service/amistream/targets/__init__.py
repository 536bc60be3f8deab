"""Targets: take an unbundled image, and write it to a file, a block device or the standard output."""
