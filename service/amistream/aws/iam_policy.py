"""The IAM policy of all permissions of a job, for a partition and a bucket."""

from __future__ import annotations

from typing import Any

_OF_BUCKET = (
    "s3:ListBucket",
    "s3:ListBucketMultipartUploads",
    "s3:GetBucketLocation",
    "s3:GetBucketOwnershipControls",
    "s3:GetBucketVersioning",
    "s3:GetEncryptionConfiguration",
)
_OF_OBJECTS = ("s3:GetObject", "s3:PutObject", "s3:PutObjectAcl", "s3:DeleteObject", "s3:AbortMultipartUpload")
_OF_IMAGES = (
    "ec2:RegisterImage",
    "ec2:DescribeImages",
    "ec2:DeregisterImage",
    "ec2:CreateTags",
    "sts:GetCallerIdentity",
)
_OF_SNAPSHOTS = (
    "ebs:StartSnapshot",
    "ebs:PutSnapshotBlock",
    "ebs:CompleteSnapshot",
    "ebs:ListSnapshotBlocks",
    "ebs:GetSnapshotBlock",
    "ec2:DescribeSnapshots",
    "ec2:DeleteSnapshot",
    "ec2:GetEbsEncryptionByDefault",
)


def iam_policy(partition: str, bucket: str) -> dict[str, Any]:
    """The policy; the last statement is for EBS snapshots only."""
    arn = f"arn:{partition or 'aws'}:s3:::{bucket}"
    statements = ((_OF_BUCKET, arn), (_OF_OBJECTS, f"{arn}/*"), (_OF_IMAGES, "*"), (_OF_SNAPSHOTS, "*"))
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": list(actions), "Resource": resource} for actions, resource in statements
        ],
    }
