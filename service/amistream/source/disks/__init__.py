"""Disks as they are: partition tables, file systems and their used blocks, boot loaders.

Pure: the bytes come from a function that is given, and values go out.
"""
