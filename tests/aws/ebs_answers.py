"""Every error of the EBS direct APIs, as AWS answers it: codes, reasons and HTTP statuses of botocore's model."""

from __future__ import annotations

EBS_REQUESTS: dict[str, tuple[str, dict[str, object]]] = {
    "StartSnapshot": ("ebs", {"VolumeSize": 1}),
    "PutSnapshotBlock": (
        "ebs",
        {
            "SnapshotId": "snap-0123456789abcdef0",
            "BlockIndex": 0,
            "BlockData": b"block",
            "DataLength": 5,
            "Checksum": "checksum",
            "ChecksumAlgorithm": "SHA256",
        },
    ),
    "CompleteSnapshot": ("ebs", {"SnapshotId": "snap-0123456789abcdef0", "ChangedBlocksCount": 0}),
    "ListSnapshotBlocks": ("ebs", {"SnapshotId": "snap-0123456789abcdef0"}),
    "GetSnapshotBlock": ("ebs", {"SnapshotId": "snap-0123456789abcdef0", "BlockIndex": 0, "BlockToken": "token"}),
    "DescribeSnapshots": ("ec2", {"SnapshotIds": ["snap-0123456789abcdef0"]}),
    "DeleteSnapshot": ("ec2", {"SnapshotId": "snap-0123456789abcdef0"}),
    "GetEbsEncryptionByDefault": ("ec2", {}),
}

EBS_ANSWERS = """\
AccessDeniedException StartSnapshot 403 no - User: u is not authorized to perform: ebs:StartSnapshot on resource: r
AccessDeniedException.UNAUTHORIZED_ACCOUNT ListSnapshotBlocks 403 no - The account is not authorized.
AccessDeniedException.DEPENDENCY_ACCESS_DENIED StartSnapshot 403 no kms_key_id Access to the KMS key is denied.
ConcurrentLimitExceededException StartSnapshot 400 no - Maximum allowed in-progress snapshots exceeded.
ServiceQuotaExceededException StartSnapshot 402 no - The snapshot quota is exceeded.
ServiceQuotaExceededException.DEPENDENCY_SERVICE_QUOTA_EXCEEDED PutSnapshotBlock 402 no - Too many grants.
RequestThrottledException PutSnapshotBlock 400 again - Rate exceeded.
RequestThrottledException.ACCOUNT_THROTTLED PutSnapshotBlock 400 again - Rate exceeded.
RequestThrottledException.RESOURCE_LEVEL_THROTTLE GetSnapshotBlock 400 again - Rate exceeded.
RequestThrottledException.DEPENDENCY_REQUEST_THROTTLED PutSnapshotBlock 400 again - Rate exceeded.
ResourceNotFoundException StartSnapshot 404 no - The thing does not exist.
ResourceNotFoundException.SNAPSHOT_NOT_FOUND PutSnapshotBlock 404 no source The snapshot does not exist.
ResourceNotFoundException.GRANT_NOT_FOUND PutSnapshotBlock 404 no kms_key_id The grant was not found.
ResourceNotFoundException.DEPENDENCY_RESOURCE_NOT_FOUND StartSnapshot 404 no kms_key_id The key is disabled.
ResourceNotFoundException.IMAGE_NOT_FOUND StartSnapshot 404 no - The image was not found.
ConflictException StartSnapshot 409 no - The client token was used with other parameters.
InvalidSnapshot.NotFound DeleteSnapshot 400 no source The snapshot "snap-0123456789abcdef0" does not exist.
InvalidSnapshot.InUse DeleteSnapshot 400 no - The snapshot snap-0123456789abcdef0 is currently in use by ami-12345678
InvalidSnapshotID.Malformed DescribeSnapshots 400 no source Invalid id: "snap-x"
ValidationException StartSnapshot 400 no - 1 validation error detected
ValidationException.INVALID_SNAPSHOT_ID PutSnapshotBlock 400 no - The snapshot is not pending.
ValidationException.INVALID_PARAMETER_VALUE CompleteSnapshot 400 no - ChangedBlocksCount does not match.
ValidationException.INVALID_VOLUME_SIZE StartSnapshot 400 no volume_size The volume size is too small.
ValidationException.INVALID_TAG StartSnapshot 400 no tags The tag key is reserved.
ValidationException.INVALID_CUSTOMER_KEY StartSnapshot 400 no kms_key_id The key is asymmetric.
ValidationException.INVALID_DEPENDENCY_REQUEST StartSnapshot 400 no kms_key_id The key is pending deletion.
ValidationException.INVALID_BLOCK PutSnapshotBlock 400 no - The checksum does not match.
ValidationException.INVALID_CONTENT_ENCODING PutSnapshotBlock 400 no - The encoding is not supported.
ValidationException.INVALID_BLOCK_TOKEN GetSnapshotBlock 400 no - The token has expired.
ValidationException.INVALID_GRANT_TOKEN PutSnapshotBlock 400 no kms_key_id The grant token is not valid.
ValidationException.UNRELATED_SNAPSHOTS StartSnapshot 400 no - The snapshots are of another lineage.
ValidationException.INVALID_IMAGE_ID StartSnapshot 400 no - The image id is malformed.
ValidationException.CONFLICTING_BLOCK_UPDATE PutSnapshotBlock 400 again - The block is being updated.
ValidationException.WRITE_REQUEST_TIMEOUT PutSnapshotBlock 400 again - The write request timed out.
"""
EBS_SYNONYMS = {
    "InvalidSnapshotID.Malformed": "InvalidSnapshot.Locked",
    "ValidationException.INVALID_BLOCK_TOKEN": "ValidationException.INVALID_PAGE_TOKEN",
}
