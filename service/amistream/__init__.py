"""amistream: stream a volume into an EC2 instance store-backed (S3-backed) AMI."""

__version__ = "0.1.0"
