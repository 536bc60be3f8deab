"""The file system xfs: its superblock, its log, and its used blocks."""
