"""The page of `amistream web`: a server on the loopback address, and the files that a browser gets from it."""
