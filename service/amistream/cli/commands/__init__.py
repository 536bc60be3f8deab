"""The commands of `amistream`, one file each."""
