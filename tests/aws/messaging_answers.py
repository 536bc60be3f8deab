"""Errors of SQS, and of SNS and EventBridge about notices, as AWS answers them: codes and statuses of botocore."""

from __future__ import annotations

QUEUE = "https://sqs.eu-west-1.amazonaws.com/123456789012/work"
DEAD = "arn:aws:sqs:eu-west-1:123456789012:dead"
ENTRY = {"Id": "0", "ReceiptHandle": "handle"}

MESSAGING_REQUESTS: dict[str, tuple[str, dict[str, object]]] = {
    "ReceiveMessage": ("sqs", {"QueueUrl": QUEUE}),
    "ChangeMessageVisibilityBatch": ("sqs", {"QueueUrl": QUEUE, "Entries": [{**ENTRY, "VisibilityTimeout": 60}]}),
    "DeleteMessageBatch": ("sqs", {"QueueUrl": QUEUE, "Entries": [ENTRY]}),
    "SendMessageBatch": ("sqs", {"QueueUrl": QUEUE, "Entries": [{"Id": "0", "MessageBody": "{}"}]}),
    "GetQueueAttributes": ("sqs", {"QueueUrl": QUEUE}),
    "StartMessageMoveTask": ("sqs", {"SourceArn": DEAD}),
    "PutEvents": ("events", {"Entries": [{"Source": "amistream", "DetailType": "t", "Detail": "{}"}]}),
    "Publish": ("sns", {"TopicArn": "arn:aws:sns:eu-west-1:123456789012:done", "Message": "{}"}),
}

MESSAGING_ANSWERS = """\
QueueDoesNotExist ReceiveMessage 400 no queue The specified queue does not exist.
QueueDeletedRecently GetQueueAttributes 400 again queue You must wait 60 seconds after deleting a queue.
InvalidAddress ReceiveMessage 400 no queue The address https://example.com/ is not valid for this endpoint.
InvalidSecurity SendMessageBatch 403 no queue The request was not made over HTTPS or did not use SigV4.
ReceiptHandleIsInvalid DeleteMessageBatch 400 no - The input receipt handle is invalid.
InvalidParameterValueException ReceiveMessage 400 no - Value 99 for parameter WaitTimeSeconds is invalid.
InvalidMessageContents SendMessageBatch 400 no - The message contains characters outside the allowed set.
BatchRequestTooLong SendMessageBatch 400 no - Batch requests cannot be longer than 1048576 bytes.
OverLimit ReceiveMessage 403 again - Too many messages in flight
KmsAccessDenied ReceiveMessage 400 no - The ciphertext refers to a key that does not exist, or is not yours.
KmsThrottled SendMessageBatch 400 again - Rate exceeded.
AuthorizationError Publish 403 no - User: u is not authorized to perform: SNS:Publish on resource: r
"""
MESSAGING_SYNONYMS = {
    "KmsAccessDenied": "KmsDisabled KmsInvalidKeyUsage KmsInvalidState KmsNotFound KmsOptInRequired",
    "ReceiptHandleIsInvalid": "MessageNotInflight",
}
QUERY_CODES = {
    "QueueDoesNotExist": "AWS.SimpleQueueService.NonExistentQueue",
    "QueueDeletedRecently": "AWS.SimpleQueueService.QueueDeletedRecently",
    "BatchRequestTooLong": "AWS.SimpleQueueService.BatchRequestTooLong",
    "InvalidParameterValueException": "InvalidParameterValue",
    "KmsAccessDenied": "KMS.AccessDeniedException",
}
"""The older names, which SQS gives in a header and the SDK as the code."""

ELSEWHERE = """\
StartMessageMoveTask ResourceNotFoundException 404 QueueDoesNotExist queue
Publish NotFound 404 TopicDoesNotExist results
Publish InvalidParameter 400 InvalidParameterValueException -
Publish KMSDisabled 400 KmsDisabled -
PutEvents ResourceNotFoundException 400 EventBusDoesNotExist results
PutEvents ValidationException 400 InvalidParameterValueException -
"""
"""Words that mean something else in another service: operation, code, status, our code and the field at fault."""
