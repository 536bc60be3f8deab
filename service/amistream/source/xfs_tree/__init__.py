"""A live tree as a fresh xfs: copied, as root, into a temporary file that only this process sees.

The kernel alone writes xfs, so the files are copied once before the first byte is bundled: `features` and `making` have
mkfs.xfs make the file system, `writing` fills it, `space` says beforehand what that takes, and `volume` is the outcome.
"""
