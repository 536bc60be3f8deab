"""Volumes to read: image files, devices, streams and images of virtual machines."""
