"""Fixtures for the tests of commands on bundles."""

from bundles.bucket import bucket, bundle, cloud

__all__ = ["bucket", "bundle", "cloud"]
