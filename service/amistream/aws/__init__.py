"""The AWS border: sessions and clients, requests to S3 and EC2, instance metadata, regions and certificates, errors.

Every exception of the SDK is translated before it leaves this package.
"""
