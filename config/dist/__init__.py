"""Builds installations that need nothing of the host: an archive, a .deb and a .rpm for each architecture.

`make dist` runs it. The tree holds Debian's CPython with its libraries, loader and libc, the wheels beside, and a
static launcher. Nothing of another architecture is run to build it.
"""
