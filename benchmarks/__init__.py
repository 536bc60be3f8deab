"""Benchmarks of amistream: `python -m benchmarks --list` shows them.

They use the service's public entry points only, and run whole jobs in child processes that report their own figures.
Every ratio is taken between things timed in the same round, because a shared machine is never twice the same.
"""
