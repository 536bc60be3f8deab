"""Volumes to read: the port they share, and how a path becomes one."""
