"""One command of `amistream` a file."""
