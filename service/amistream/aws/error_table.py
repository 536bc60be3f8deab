"""Every error of AWS, or of the way there: its cause, its fix, and whether a repeat may help.

Data only; `translate` makes the messages. The codes are those of the S3, EC2 and STS API references; those of the EBS
direct APIs stand in `ebs_errors`, those of SQS, SNS and EventBridge in `messaging_errors`. Codes in lower case are
failures that no server reported. Transient errors follow AWS's own list of retryable errors, except that 400
`BadDigest` is repeated too: the bytes were damaged on the way.
"""

from __future__ import annotations

from collections.abc import Mapping

from amistream.aws.ebs_errors import EBS_CLASSES, EBS_NEEDS, EBS_ROWS
from amistream.aws.error_row import Row
from amistream.aws.messaging_errors import MESSAGING_CLASSES, MESSAGING_NEEDS, MESSAGING_ROWS
from amistream.errors import (
    DeniedError,
    NameTakenError,
    NoObjectError,
    NotSupportedError,
    NoUploadError,
    PreconditionError,
    StoreError,
    ThrottledError,
    UnreachedError,
)

ENABLE_ACLS = (
    "aws s3api put-bucket-ownership-controls --bucket BUCKET "
    "--ownership-controls 'Rules=[{ObjectOwnership=BucketOwnerPreferred}]'"
)
MAKE_BUCKET = (
    "aws s3api create-bucket --bucket BUCKET --object-ownership BucketOwnerPreferred "
    "(outside us-east-1 also --create-bucket-configuration LocationConstraint=REGION)"
)
"""Creates a bucket with ACLs; `aws s3 mb` creates one without."""
USE_SSE_S3 = (
    "aws s3api put-bucket-encryption --bucket BUCKET --server-side-encryption-configuration "
    '\'{"Rules":[{"ApplyServerSideEncryptionByDefault":{"SSEAlgorithm":"AES256"}}]}\''
)
_SET_THE_CLOCK = "set the clock: `chronyc makestep` or `timedatectl set-ntp true`"
_OWN_REGION = "leave out --region: the bucket's region is found automatically"
_CHECK_PROXY = "check HTTPS_PROXY, HTTP_PROXY and NO_PROXY where the job runs"
_LATER = "try again later; the Health Dashboard of the AWS console shows whether AWS has a problem"
OTHER_PARTITIONS = "keys of GovCloud or China are known in its regions only: give --region"


_THROTTLES = (
    *("RequestLimitExceeded", "EC2ThrottledException", "Throttling", "ThrottlingException"),
    *("RequestThrottled", "TooManyRequests"),
)

_ROWS = (
    # Permissions and the account.
    Row(("AccessDenied",), "access is denied", permission=True),
    Row(("UnauthorizedOperation",), "the credentials do not permit this in EC2", permission=True),
    Row(
        ("AllAccessDisabled",),
        "AWS has disabled all access to the bucket",
        "ask AWS Support, or choose another bucket",
        field="destinations",
    ),
    Row(
        ("AccountProblem", "Blocked", "NotSignedUp", "OptInRequired", "PendingVerification"),
        "the account may not use this service: {said}",
        "the Billing page of the AWS console shows what AWS is waiting for, or ask AWS Support",
    ),
    # The bucket: its name, its region, its settings.
    Row(
        ("AccessControlListNotSupported",),
        "the bucket's ACLs are disabled, and EC2 can read a bundle only through its ACL",
        ENABLE_ACLS,
        field="destinations",
    ),
    Row(
        ("KMS.*",),
        "the bucket encrypts with a KMS key that cannot be used, and EC2 cannot read bundles under KMS",
        USE_SSE_S3,
        field="destinations",
    ),
    Row(
        ("NoSuchBucket",),
        "there is no such bucket",
        f"check the name, or create it: {MAKE_BUCKET}",
        field="destinations",
    ),
    Row(
        ("InvalidBucketName",),
        "this is not a valid bucket name",
        "check --to: a bucket name has 3 to 63 lower-case letters, digits, dots and dashes",
        field="destinations",
    ),
    Row(
        ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"),
        "the bucket is in another region",
        _OWN_REGION,
        field="region",
    ),
    Row(
        ("TemporaryRedirect",),
        "the bucket is new, and its name does not resolve to its region yet",
        "wait a few minutes and try again",
        transient=True,
    ),
    Row(
        ("BadRequest",),
        "the request was refused without a reason, as happens when the region or the credentials are wrong",
        f"{_OWN_REGION}; renew the credentials if they may have expired",
    ),
    Row(
        ("NotImplemented",),
        "the endpoint does not support a part of the request",
        "check --endpoint-url: it must support S3 and the ACL of --acl. AWS itself answers so when "
        "s3:PutObjectAcl on BUCKET/* is not allowed",
    ),
    Row(
        ("MethodNotAllowed", "InvalidAction"),
        "the endpoint does not support this request",
        "check --endpoint-url: it must support S3, and EC2 unless --no-register is given; for snapshots, EC2 and the "
        "EBS direct APIs",
    ),
    Row(
        ("InvalidArgument", "InvalidRequest"),
        "the endpoint does not accept a part of the request: {said}",
        "check --endpoint-url: it must support S3 and the ACL of --acl",
    ),
    # Objects and uploads.
    Row(("NoSuchKey",), "the object does not exist", "it was removed in the meantime: run the job again"),
    Row(
        ("NoSuchUpload",),
        "the multipart upload no longer exists: a user or a lifecycle rule of the bucket aborted it",
        "let the rule abort uploads after a day or more, and run the job again",
    ),
    Row(
        ("PreconditionFailed",),
        "an object of this name exists already",
        "look with `aws s3 ls s3://BUCKET/`; choose another --prefix",
        field="destinations",
    ),
    Row(
        ("ConditionalRequestConflict", "OperationAborted"),
        "another request for the same name is in progress",
        "wait until the other job for this destination ends, or choose another --prefix",
        transient=True,
    ),
    Row(
        ("EntityTooSmall",),
        "a chunk of the multipart upload is smaller than the endpoint accepts",
        "raise the setting multipart_chunk, or multipart_threshold so that parts are uploaded whole",
    ),
    Row(
        ("EntityTooLarge",),
        "the part is larger than the endpoint accepts",
        "give a smaller --part-size, or lower the setting multipart_threshold so that it is uploaded in chunks",
        field="part_size",
    ),
    Row(
        ("InvalidPart", "InvalidPartOrder"),
        "the endpoint lost or changed chunks of the multipart upload",
        "run the job again; with an endpoint that loses chunks, raise the setting multipart_threshold",
    ),
    Row(
        (
            *("BadDigest", "IncompleteBody", "InvalidDigest"),
            *("XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"),
        ),
        "the received bytes differ from those sent",
        "if this persists, the network, a proxy or this machine's memory damages data",
        transient=True,
    ),
    # Credentials and the clock.
    Row(("RequestTimeTooSkewed",), "this machine's clock differs too much from AWS's", _SET_THE_CLOCK),
    Row(
        ("RequestExpired",),
        "the request arrived too late: this machine's clock is wrong, or the credentials have expired",
        f"{_SET_THE_CLOCK}; renew the credentials",
    ),
    Row(
        ("ExpiredToken", "ExpiredTokenException"),
        "the credentials have expired",
        "renew them, or use a role, whose credentials refresh automatically",
        transient=True,  # the provider chain may have newer ones by the next try
    ),
    Row(
        ("InvalidAccessKeyId",),
        "the access key does not exist",
        f"check AWS_ACCESS_KEY_ID or the profile in use; {OTHER_PARTITIONS}",
    ),
    Row(
        ("InvalidToken", "InvalidClientTokenId", "UnrecognizedClientException"),
        "the access key or its session token is not valid here",
        "set AWS_SESSION_TOKEN to the token of this access key, or unset it; enable the region for the account; "
        f"{OTHER_PARTITIONS}",
    ),
    Row(
        ("SignatureDoesNotMatch", "InvalidSignatureException"),
        "the secret key does not match the access key",
        "check AWS_SECRET_ACCESS_KEY or the profile in use",
    ),
    Row(
        ("AuthFailure",),
        "EC2 does not accept the credentials",
        "check the credentials, the region, whether it is enabled for the account, and this machine's clock",
    ),
    Row(
        (
            *("IncompleteSignature", "MissingAuthenticationToken", "MissingSecurityHeader"),
            *("IncompleteSignatureException", "MissingAuthenticationTokenException"),
        ),
        "the request arrived without its complete signature",
        "configure proxies between here and --endpoint-url to pass all headers",
    ),
    Row(
        ("RegionDisabledException",),
        "STS is not enabled in this region",
        "enable it in the account settings of IAM, or choose another --region",
        field="region",
    ),
    Row(
        ("InvalidIdentityToken",),
        "the web identity token of the role is not accepted",
        "renew the file AWS_WEB_IDENTITY_TOKEN_FILE; check the role's trust policy",
    ),
    Row(
        ("IDPCommunicationError",),
        "STS cannot reach the identity provider of the role",
        "try again later; check the identity provider",
        transient=True,
    ),
    # Load, and unavailable services.
    Row(
        ("SlowDown",),
        "S3 asks for fewer requests at a time",
        "run fewer jobs into this bucket at once, or give a smaller --upload-concurrency",
        transient=True,
    ),
    Row(
        _THROTTLES,
        "the account sends too many requests in the region",
        "try again later; other programs of the account share the limit",
        transient=True,
    ),
    Row(
        ("InternalError", "InternalFailure", "InternalServerException"),
        "the service had an internal error",
        _LATER,
        transient=True,
    ),
    Row(
        ("ServiceUnavailable", "Unavailable", "BadGateway", "GatewayTimeout"),
        "the service is unavailable",
        _LATER,
        transient=True,
    ),
    Row(
        ("RequestTimeout", "RequestTimeoutException"),
        "the service waited too long for the rest of the request",
        "send less at a time: a smaller --upload-concurrency or --part-size",
        transient=True,
    ),
    # Registering the AMI.
    Row(
        ("InvalidAMIName.Duplicate",),
        "another AMI of the account has this name in the region",
        "choose another --ami-name, or deregister that AMI",
        field="ami_name",
    ),
    Row(
        ("InvalidAMIName.Malformed",),
        "EC2 does not accept the AMI's name",
        "give an --ami-name of 3 to 128 letters, digits and ( ) [ ] space . / - ' @ _",
        field="ami_name",
    ),
    Row(
        ("InvalidManifest",),
        "EC2 cannot use the manifest: {said}",
        "device names must be like sda1 or sdb, never xvda (-B); the bucket must be in the AMI's region, and EC2 "
        "must be able to read it: --acl aws-exec-read, no KMS",
    ),
    Row(
        ("InvalidAMIID.*",),
        "the AMI does not exist, or can no longer be used",
        "look with `aws ec2 describe-images --owners self` in the AMI's region",
    ),
    Row(
        ("InvalidBlockDeviceMapping",),
        "EC2 does not accept the block device mapping: {said}",
        "check -B, as in `-B ephemeral0=sdb`",
        field="block_device_mappings",
    ),
    Row(
        (
            *("InvalidParameter", "InvalidParameterCombination", "InvalidParameterValue"),
            *("MissingParameter", "ValidationError"),
        ),
        "EC2 does not accept a value: {said}",
        "check --arch, --virtualization, --kernel, --ramdisk, --sriov, --ena, -B and --tag",
    ),
    Row(
        ("Unsupported", "UnsupportedOperation"),
        "this is not possible in the region: {said}",
        "choose another --region (and a bucket there), or --no-register",
        field="region",
    ),
    Row(("DryRunOperation",), "this was a dry run, and the request is permitted"),
    # Failures that no server reported.
    Row(
        ("credentials",),
        "no AWS credentials were found",
        "use an instance role, a profile (AWS_PROFILE), or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ),
    Row(
        ("broken_credentials",),
        "the AWS credentials cannot be obtained: {said}",
        "check the profile (AWS_PROFILE) and the files and roles in it; `aws sts get-caller-identity` uses the same",
        shown_as="credentials",
    ),
    Row(
        ("configuration",),
        "the configuration files of the AWS SDK cannot be used: {said}",
        "check AWS_PROFILE, AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE; `aws configure list-profiles` shows the "
        "profiles",
        shown_as="credentials",
    ),
    Row(("region",), "no region is known", "give --region", field="region"),
    Row(
        ("tls",),
        "the endpoint's certificate is not trusted ({said})",
        "set AWS_CA_BUNDLE to the CA's certificate if the endpoint is your own",
        field="endpoint_url",
    ),
    Row(
        ("no_tls",),
        "the TLS connection to {where} failed ({said})",
        "check --endpoint-url: is it an https endpoint?",
        field="endpoint_url",
        shown_as="tls",
    ),
    Row(
        ("timeout",),
        "no answer in time",
        "check the network and --endpoint-url; stall_timeout_s sets how long to wait",
        transient=True,
    ),
    Row(
        ("refused",),
        "nothing answers at {where}",
        "check --endpoint-url and whether the endpoint runs",
        transient=True,
        shown_as="unreachable",
    ),
    Row(
        ("unresolved",),
        "the host name in {where} cannot be resolved",
        "check --endpoint-url and --region, HTTP_PROXY and HTTPS_PROXY where the job runs, and the name servers "
        "(/etc/resolv.conf)",
        transient=True,
        shown_as="unreachable",
    ),
    Row(
        ("broken_off",),
        "the connection to {where} was lost ({said})",
        "check the network, and proxies between here and --endpoint-url",
        transient=True,
        shown_as="unreachable",
    ),
    Row(
        ("unreachable",),
        "{where} cannot be reached ({said})",
        "check the network, the proxy settings and --endpoint-url",
        transient=True,
    ),
    Row(
        ("proxy",),
        "the proxy does not answer",
        _CHECK_PROXY,
        transient=True,
        shown_as="unreachable",
    ),
    Row(
        ("proxy_failed",),
        "the proxy cannot connect to the endpoint ({said})",
        _CHECK_PROXY,
        transient=True,
        shown_as="unreachable",
    ),
    Row(
        ("proxy_forbids",),
        "the proxy refuses to connect to the endpoint ({said})",
        "let the proxy allow the endpoint's host, or name the host in NO_PROXY if it can be reached without",
        shown_as="proxy",
    ),
    Row(
        ("ProxyAuthenticationRequired",),
        "the proxy asks for a user and a password, or for others",
        "give them in HTTPS_PROXY or HTTP_PROXY where the job runs: http://USER:PASSWORD@HOST:PORT",
    ),
    Row(
        ("unsendable",),
        "the request cannot be sent: {said}",
        "check --endpoint-url, HTTPS_PROXY, HTTP_PROXY and AWS_CA_BUNDLE where the job runs",
    ),
    Row(
        ("unreadable",),
        "the answer cannot be understood",
        "check --endpoint-url, and proxies that answer in its place",
        transient=True,
    ),
    Row(
        ("incomplete",),
        "the answer says success, and {said}",
        "check --endpoint-url, and proxies that answer in its place",
        transient=True,
        shown_as="unreadable",
    ),
    Row(("sdk",), "{said}"),
)

TABLE: Mapping[str, Row] = {code: row for row in (*_ROWS, *EBS_ROWS, *MESSAGING_ROWS) for code in row.codes}

CLASSES: Mapping[str, type[StoreError]] = {
    **dict.fromkeys((*_THROTTLES, "SlowDown"), ThrottledError),
    **EBS_CLASSES,
    **MESSAGING_CLASSES,
    "AccessDenied": DeniedError,
    "InvalidAMIName.Duplicate": NameTakenError,
    "InvalidAction": NotSupportedError,
    "MethodNotAllowed": NotSupportedError,
    "NoSuchKey": NoObjectError,
    "NoSuchUpload": NoUploadError,
    "NotImplemented": NotSupportedError,
    "PreconditionFailed": PreconditionError,
    "UnauthorizedOperation": DeniedError,
    "refused": UnreachedError,
    "unresolved": UnreachedError,
}
"""The codes that callers decide by, with their classes; the part before a dot stands for all codes that begin so.
All other codes are plain `StoreError`s.
"""

NEEDS = {
    "HeadBucket": "s3:ListBucket on BUCKET, and s3:PutObject, s3:PutObjectAcl, s3:GetObject and s3:DeleteObject on "
    "BUCKET/* for the next steps",
    "ListObjectsV2": "s3:ListBucket on BUCKET",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads on BUCKET",
    "GetBucketLocation": "s3:GetBucketLocation on BUCKET",
    "GetBucketOwnershipControls": "s3:GetBucketOwnershipControls on BUCKET",
    "GetBucketEncryption": "s3:GetEncryptionConfiguration on BUCKET",
    "GetBucketVersioning": "s3:GetBucketVersioning on BUCKET",
    # Without s3:ListBucket, a missing object is reported as denied.
    "HeadObject": "s3:GetObject on BUCKET/* and s3:ListBucket on BUCKET",
    "GetObject": "s3:GetObject on BUCKET/* and s3:ListBucket on BUCKET",
    "PutObject": "s3:PutObject and s3:PutObjectAcl on BUCKET/*",
    "CreateMultipartUpload": "s3:PutObject and s3:PutObjectAcl on BUCKET/*",
    "UploadPart": "s3:PutObject on BUCKET/*",
    "CompleteMultipartUpload": "s3:PutObject on BUCKET/*",
    "AbortMultipartUpload": "s3:AbortMultipartUpload on BUCKET/*",
    "CopyObject": "s3:GetObject on the copied objects, and s3:PutObject and s3:PutObjectAcl on BUCKET/*",
    "DeleteObject": "s3:DeleteObject on BUCKET/*",
    "DeleteObjects": "s3:DeleteObject on BUCKET/*",
    # Of the drop-in commands only, which make and delete buckets.
    "CreateBucket": "s3:CreateBucket and s3:PutBucketOwnershipControls on BUCKET",
    "DeleteBucket": "s3:DeleteBucket on BUCKET",
    "RegisterImage": "ec2:RegisterImage, and ec2:CreateTags with --tag",
    "DescribeImages": "ec2:DescribeImages",
    "DeregisterImage": "ec2:DeregisterImage",
    **EBS_NEEDS,
    **MESSAGING_NEEDS,
    "GetCallerIdentity": "sts:GetCallerIdentity",
    # The SDK's own, when it makes credentials of a role.
    "AssumeRole": "sts:AssumeRole",
    "AssumeRoleWithWebIdentity": "sts:AssumeRoleWithWebIdentity",
}
"""The IAM actions of each operation. Uploads need s3:PutObjectAcl too, because each object gets an ACL."""


def is_transient(code: str) -> bool:
    """True if a repeat may help after an error that is shown under this code, such as `aws.SlowDown`."""
    return code.removeprefix("aws.") in _TRANSIENT and code.startswith("aws.")


_TRANSIENT = frozenset(row.shown_as or code for code, row in TABLE.items() if row.transient) | {
    f"HTTP{status}" for status in (500, 502, 503, 504)
}
