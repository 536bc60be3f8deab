"""Finds what keeps a disk from booting as an AMI: one file a subject, from facts of the image to findings."""
