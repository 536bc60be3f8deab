"""Every error of SQS, and of SNS and EventBridge about notices: its cause, its fix, and its class.

Data only, a part of `error_table`. SQS has two names for its errors; the newer ones stand here. The same word of two
services that mean different things has a name of ours, see `RENAMED`.
"""

from __future__ import annotations

from collections.abc import Mapping

from amistream.aws.error_row import Row
from amistream.errors import DeniedError, StaleHandleError, StoreError, ThrottledError, UnfitMessageError

NO_QUEUE = "QueueDoesNotExist"
_BAD_VALUE = "InvalidParameterValueException"
_FIND_QUEUE = (
    "check the URL, its region and its account: `aws sqs get-queue-url --queue-name NAME`; or create it: "
    "`aws sqs create-queue --queue-name NAME`"
)

MESSAGING_ROWS = (
    # Queues.
    Row((NO_QUEUE,), "the queue does not exist", _FIND_QUEUE, field="queue"),
    Row(
        ("QueueDeletedRecently",),
        "a queue of this name was deleted less than a minute ago",
        "wait a minute, and create it again",
        transient=True,
        field="queue",
    ),
    Row(("InvalidAddress",), "the queue's URL is not valid here: {said}", _FIND_QUEUE, field="queue"),
    Row(
        ("InvalidSecurity",),
        "the queue takes signed requests over TLS only",
        "write https:// in the queue's URL",
        field="queue",
    ),
    # Messages.
    Row(
        ("ReceiptHandleIsInvalid", "MessageNotInflight"),
        "the message is no longer ours: its time ran out, or it was deleted or received again",
        "if jobs end so often, this host is overloaded or its network is cut: look at its log, and for another host "
        "that has the message",
    ),
    Row(
        (_BAD_VALUE,),
        "the service does not accept a value: {said}",
        "messages have at most 1 MiB, notices 256 KiB; a message is held for at most 12 hours",
    ),
    Row(
        ("InvalidMessageContents",),
        "the message has characters that SQS does not take",
        "write control characters in JSON as \\u0000",
    ),
    Row(
        ("BatchRequestTooLong",),
        "the messages are longer than the endpoint takes at once",
        "send shorter messages, or ask for a larger limit of the queue (MaximumMessageSize)",
    ),
    Row(
        ("OverLimit",),
        "120,000 messages of the queue are being worked on, the most that SQS allows",
        "divide the jobs among several queues; `amistream fleet status` counts the messages",
        transient=True,
    ),
    # The key of a queue or topic.
    Row(
        (
            *("KmsAccessDenied", "KmsDisabled", "KmsInvalidKeyUsage", "KmsInvalidState", "KmsNotFound"),
            *("KmsOptInRequired",),
        ),
        "the KMS key of the queue or topic cannot be used: {said}",
        "allow the credentials kms:Decrypt and kms:GenerateDataKey, in the key's policy too, or let the queue encrypt "
        "with SQS's own key: `aws sqs set-queue-attributes --queue-url URL --attributes SqsManagedSseEnabled=true`",
    ),
    Row(
        ("KmsThrottled",),
        "KMS asks for fewer requests",
        "raise KmsDataKeyReusePeriodSeconds of the queue: a data key is then used for longer",
        transient=True,
    ),
    # Notices.
    Row(("AuthorizationError",), "the credentials do not permit this in SNS", permission=True),
    Row(
        ("TopicDoesNotExist",),
        "the topic does not exist",
        "check the ARN in the setting results: `aws sns list-topics`",
        field="results",
    ),
    Row(
        ("EventBusDoesNotExist",),
        "the event bus does not exist",
        "check the name in the setting results: `aws events list-event-buses`",
        field="results",
    ),
)

MESSAGING_CLASSES: Mapping[str, type[StoreError]] = {
    **dict.fromkeys((_BAD_VALUE, "BatchRequestTooLong", "InvalidMessageContents"), UnfitMessageError),
    "AuthorizationError": DeniedError,
    "KmsThrottled": ThrottledError,
    "MessageNotInflight": StaleHandleError,
    "OverLimit": ThrottledError,
    "ReceiptHandleIsInvalid": StaleHandleError,
}

MESSAGING_NEEDS = {
    "ReceiveMessage": "sqs:ReceiveMessage on the queue",
    "ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility on the queue",
    "DeleteMessageBatch": "sqs:DeleteMessage on the queue",
    "SendMessageBatch": "sqs:SendMessage on the queue",
    "GetQueueAttributes": "sqs:GetQueueAttributes on the queue",
    "StartMessageMoveTask": "sqs:StartMessageMoveTask, sqs:ReceiveMessage, sqs:DeleteMessage and "
    "sqs:GetQueueAttributes on the queue of dead letters, and sqs:SendMessage on the queue",
    "PutEvents": "events:PutEvents on the event bus",
    "Publish": "sns:Publish on the topic",
}
"""The IAM actions of each operation."""

_BAD_VALUES = (
    *("InvalidParameterValue", "MissingParameter", "InvalidParameter", "ValidationError", "ValidationException"),
    "InvalidArgument",
)
_KMS_OF_SNS = {
    "KMSAccessDenied": "KmsAccessDenied",
    "KMSDisabled": "KmsDisabled",
    "KMSInvalidState": "KmsInvalidState",
    "KMSNotFound": "KmsNotFound",
    "KMSOptInRequired": "KmsOptInRequired",
    "KMSThrottling": "KmsThrottled",
}
RENAMED: Mapping[tuple[str, str], str] = {
    **{(operation, code): _BAD_VALUE for operation in MESSAGING_NEEDS for code in _BAD_VALUES},
    **{("Publish", code): name for code, name in _KMS_OF_SNS.items()},
    ("StartMessageMoveTask", "ResourceNotFoundException"): NO_QUEUE,
    ("Publish", "NotFound"): "TopicDoesNotExist",
    ("PutEvents", "ResourceNotFoundException"): "EventBusDoesNotExist",
}
"""The names here for codes that mean something else in another service, by the operation and the code."""
