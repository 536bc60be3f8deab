"""Fixtures for the tests of commands on bundles."""

from bundles.bucket import bucket, bundle, cloud, ministack

__all__ = ["bucket", "bundle", "cloud", "ministack"]
