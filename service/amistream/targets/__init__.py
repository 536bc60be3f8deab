"""Where an unbundled image goes."""
