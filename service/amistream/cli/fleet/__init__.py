"""The work of `amistream fleet`: messages, results and counts of the queues that many hosts share."""
