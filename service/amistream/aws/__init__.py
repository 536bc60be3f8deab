"""The AWS border: sessions and clients, S3 and EC2 questions, instance metadata, regions and certificates, and
error translation.

No exception of the SDK leaves this package untranslated.
"""
