"""Every error of the EBS direct APIs, and of EC2 about snapshots: its cause, its fix, and its class.

Data only, a part of `error_table`. An error may have a reason, which stands behind a dot: `CODE.REASON`; the code alone
stands for reasons that are not known here. Repeats help against what AWS names: throttles, internal errors,
`WRITE_REQUEST_TIMEOUT` and `CONFLICTING_BLOCK_UPDATE`. A snapshot that was started moments ago may be
`SNAPSHOT_NOT_FOUND` too: `aws.ebs` sees to that.
"""

from __future__ import annotations

from collections.abc import Mapping

from amistream.aws.error_row import Row
from amistream.errors import (
    DeniedError,
    InUseError,
    NoSnapshotError,
    NotPendingError,
    StaleTokenError,
    StoreError,
    ThrottledError,
)

KMS_DENIED = "AccessDeniedException.DEPENDENCY_ACCESS_DENIED"
REFUSED_VALUE = "aws.ValidationException"
"""Beginning of the codes of `StoreError`s about a value that EBS does not accept."""
WRITE_TIMEOUT = "ValidationException.WRITE_REQUEST_TIMEOUT"
SLOW_BODY = "Failed to read block data"
"""Beginning of a ValidationException's message that means `WRITE_TIMEOUT`, although its reason is a bad value. Seen in
nanovms/ops #1268; the next attempt cured it.
"""
_LIST_SNAPSHOTS = "look with `aws ec2 describe-snapshots --owner-ids self` in the snapshot's region"
_MORE_BLOCKS = (
    "lower the setting puts, or ask for more in Service Quotas, Amazon EBS: PutSnapshotBlock and GetSnapshotBlock "
    "requests per account, 1000 a second each at first"
)
_REPORT = "please report it with the log of this job"

EBS_ROWS = (
    # Permissions.
    Row(("AccessDeniedException",), "access is denied", permission=True),
    Row(
        ("AccessDeniedException.UNAUTHORIZED_ACCOUNT",),
        "the account may not use this snapshot, or the EBS direct APIs in this region",
        "check the credentials and --region; the owner of a snapshot shares it with `aws ec2 "
        "modify-snapshot-attribute`",
    ),
    Row(
        (KMS_DENIED,),
        "the KMS key of the snapshot may not be used",
        "allow the credentials, in the key's policy too, kms:DescribeKey, kms:CreateGrant, kms:Encrypt, kms:Decrypt, "
        "kms:GenerateDataKey*, kms:ReEncrypt*; or give another --kms-key-id",
        field="kms_key_id",
    ),
    # Quotas and load.
    Row(
        ("ConcurrentLimitExceededException",),
        "as many snapshots of the account are pending in the region as AWS allows, which is 100",
        "wait until some are complete; `aws ec2 describe-snapshots --owner-ids self --filters "
        "Name=status,Values=pending` lists them, `aws ec2 delete-snapshot` removes those left over",
    ),
    Row(
        ("ServiceQuotaExceededException",),
        "a quota of the account for EBS snapshots is used up: {said}",
        "delete snapshots that are not needed, or ask for more: `aws service-quotas list-service-quotas --service-code "
        "ebs` shows the quotas (the first is Snapshots per Region), `request-service-quota-increase` raises one",
    ),
    Row(
        ("ServiceQuotaExceededException.DEPENDENCY_SERVICE_QUOTA_EXCEEDED",),
        "a quota of a service that EBS uses, such as the grants of a KMS key, is used up: {said}",
        "retire grants of the key that are not needed, give another --kms-key-id, or ask for more: `aws service-quotas "
        "list-service-quotas --service-code kms` shows the quotas, `request-service-quota-increase` raises one",
    ),
    Row(
        ("RequestThrottledException",),
        "EBS asks for fewer requests at a time",
        _MORE_BLOCKS,
        transient=True,
    ),
    Row(
        ("RequestThrottledException.ACCOUNT_THROTTLED",),
        "the account sends more requests a second to the EBS direct APIs than its quota",
        _MORE_BLOCKS,
        transient=True,
    ),
    Row(
        ("RequestThrottledException.RESOURCE_LEVEL_THROTTLE",),
        "more requests a second are sent for this snapshot than the 1000 that AWS allows",
        "lower the setting puts; AWS does not raise this quota",
        transient=True,
    ),
    Row(
        ("RequestThrottledException.DEPENDENCY_REQUEST_THROTTLED",),
        "a service that EBS uses, such as KMS, asks EBS for fewer requests",
        "try again later, or lower the setting puts; `aws service-quotas list-service-quotas --service-code kms` shows "
        "the quotas of KMS",
        transient=True,
    ),
    # Snapshots, and what they stand on.
    Row(("ResourceNotFoundException",), "it does not exist: {said}", _LIST_SNAPSHOTS),
    Row(
        ("ResourceNotFoundException.SNAPSHOT_NOT_FOUND", "InvalidSnapshot.NotFound"),
        "the snapshot does not exist",
        _LIST_SNAPSHOTS,
        field="source",
    ),
    Row(
        ("ResourceNotFoundException.GRANT_NOT_FOUND",),
        "the grant of the KMS key of the snapshot no longer exists",
        "run the job again, and let nobody retire the grants of the key while it runs",
        field="kms_key_id",
    ),
    Row(
        ("ResourceNotFoundException.DEPENDENCY_RESOURCE_NOT_FOUND",),
        "the KMS key does not exist in the region, or is disabled",
        "`aws kms describe-key --key-id KEY` shows its state; give the ARN of an enabled key of the region as "
        "--kms-key-id",
        field="kms_key_id",
    ),
    Row(("ResourceNotFoundException.IMAGE_NOT_FOUND",), "the image does not exist: {said}", _REPORT),
    Row(
        ("ConflictException",),
        "another snapshot with other words was started with the same token",
        "run the job again from its beginning: it takes a new token",
    ),
    Row(
        ("InvalidSnapshot.InUse",),
        "an AMI uses the snapshot: {said}",
        "deregister that AMI first: `amistream deregister AMI`; `aws ec2 describe-images --owners self --filters "
        "Name=block-device-mapping.snapshot-id,Values=SNAPSHOT` finds it",
    ),
    Row(
        ("InvalidSnapshotID.Malformed", "InvalidSnapshot.*"),
        "this is no snapshot that can be used: {said}",
        _LIST_SNAPSHOTS,
        field="source",
    ),
    # Values that EBS refuses.
    Row(("ValidationException",), "EBS does not accept a value: {said}", _REPORT),
    Row(
        ("ValidationException.INVALID_SNAPSHOT_ID",),
        "the snapshot is not in the state for this, or has no valid id: {said}",
        "only pending snapshots take blocks, and only completed ones can be read: `aws ec2 describe-snapshots "
        "--snapshot-ids SNAPSHOT` shows the state",
    ),
    Row(("ValidationException.INVALID_PARAMETER_VALUE",), "EBS does not accept a value: {said}", _REPORT),
    Row(
        ("ValidationException.INVALID_VOLUME_SIZE",),
        "EBS does not accept the size of the volume: {said}",
        "give a --volume-size of 1GiB to 64TiB, not smaller than the image",
        field="volume_size",
    ),
    Row(
        ("ValidationException.INVALID_TAG",),
        "EBS does not accept a tag: {said}",
        "check --tag: at most 50, keys of 1 to 127 characters that do not begin with aws:, values of at most 255",
        field="tags",
    ),
    Row(
        ("ValidationException.INVALID_CUSTOMER_KEY",),
        "the KMS key cannot encrypt snapshots: {said}",
        "give the ARN of an enabled symmetric key of the region as --kms-key-id; `aws kms describe-key --key-id KEY` "
        "shows it",
        field="kms_key_id",
    ),
    Row(
        ("ValidationException.INVALID_DEPENDENCY_REQUEST",),
        "a service that EBS uses, such as KMS, refuses its request: {said}",
        "check the key's state and policy: `aws kms describe-key --key-id KEY`",
        field="kms_key_id",
    ),
    Row(("ValidationException.INVALID_BLOCK",), "EBS does not accept the block: {said}", _REPORT),
    Row(
        ("ValidationException.INVALID_CONTENT_ENCODING",),
        "EBS does not accept the encoding of the block",
        "let no proxy between here and AWS change requests",
    ),
    Row(
        ("ValidationException.INVALID_BLOCK_TOKEN", "ValidationException.INVALID_PAGE_TOKEN"),
        "the token of the listing has expired or belongs to another snapshot",
        "run the job again: it lists the snapshot anew",
    ),
    Row(
        ("ValidationException.INVALID_GRANT_TOKEN",),
        "the grant of the KMS key is not valid: {said}",
        "run the job again; check the key's policy and grants: `aws kms list-grants --key-id KEY`",
        field="kms_key_id",
    ),
    Row(
        ("ValidationException.UNRELATED_SNAPSHOTS",),
        "the snapshots are not of the same volume",
        "compare snapshots of one volume only",
    ),
    Row(("ValidationException.INVALID_IMAGE_ID",), "the image has no valid id: {said}", _REPORT),
    Row(
        ("ValidationException.CONFLICTING_BLOCK_UPDATE",),
        "another request writes the same block",
        "let no other program put blocks into this snapshot",
        transient=True,
    ),
    Row(
        (WRITE_TIMEOUT,),
        "EBS waited too long for the rest of the block",
        "lower the setting puts, so that each gets more of the network",
        transient=True,
    ),
)

EBS_CLASSES: Mapping[str, type[StoreError]] = {
    "AccessDeniedException": DeniedError,
    "InvalidSnapshot.InUse": InUseError,
    "InvalidSnapshot.NotFound": NoSnapshotError,
    "RequestThrottledException": ThrottledError,
    "ResourceNotFoundException.SNAPSHOT_NOT_FOUND": NoSnapshotError,
    # Puts of the same block end one after the other, and slow bodies get more of the link when there are fewer.
    "ValidationException.CONFLICTING_BLOCK_UPDATE": ThrottledError,
    "ValidationException.INVALID_BLOCK_TOKEN": StaleTokenError,
    "ValidationException.INVALID_PAGE_TOKEN": StaleTokenError,
    "ValidationException.INVALID_SNAPSHOT_ID": NotPendingError,
    WRITE_TIMEOUT: ThrottledError,
}

EBS_NEEDS = {
    "StartSnapshot": "ebs:StartSnapshot, and ec2:CreateTags for its tags",
    "PutSnapshotBlock": "ebs:PutSnapshotBlock on the snapshot",
    "CompleteSnapshot": "ebs:CompleteSnapshot on the snapshot",
    "ListSnapshotBlocks": "ebs:ListSnapshotBlocks on the snapshot",
    "GetSnapshotBlock": "ebs:GetSnapshotBlock on the snapshot",
    "DescribeSnapshots": "ec2:DescribeSnapshots",
    "DeleteSnapshot": "ec2:DeleteSnapshot on the snapshot",
    "GetEbsEncryptionByDefault": "ec2:GetEbsEncryptionByDefault",
}
