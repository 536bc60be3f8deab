"""Bundles in S3 buckets."""
