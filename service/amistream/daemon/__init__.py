"""The daemon: HTTP on a Unix socket in front of the job queue. It knows nothing of the work inside a job."""
