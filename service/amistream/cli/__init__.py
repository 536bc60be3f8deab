"""The command line `amistream`: submits jobs to the daemon, or runs them itself, and shows their progress."""
