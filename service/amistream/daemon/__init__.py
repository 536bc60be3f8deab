"""The daemon: HTTP on a Unix socket in front of the job queue. What a job does is not its business."""
