"""The words for failures of the SDK's credential providers: which one, what configures it, and what to do.

A message never quotes what a provider gave or what its service answered, because both may hold keys.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConfigParseError,
    CredentialRetrievalError,
    InvalidConfigError,
    MetadataRetrievalError,
    PartialCredentialsError,
    ProfileNotFound,
    RefreshWithMFAUnsupportedError,
)

from amistream.aws.translate import ProviderError, error_code, http_status, translate
from amistream.errors import AmistreamError

NAMES = {
    "explicit": "the given access key",
    "env": "the environment",
    "shared-credentials-file": "the credentials file",
    "config-file": "the configuration file",
    "assume-role": "an assumed role",
    "assume-role-with-web-identity": "a role assumed by a web identity",
    "sso": "IAM Identity Center",
    "login": "aws login",
    "custom-process": "a credential process",
    "container-role": "the container's role",
    "iam-role": "the instance's role",
    "ec2-credentials-file": "the file AWS_CREDENTIAL_FILE",
    "boto-config": "the configuration file of boto",
}
"""Descriptions of the SDK's providers, by their names."""

KEYS = {"env": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")}
_VARIABLES = {
    "env": (*KEYS["env"], "AWS_CREDENTIAL_EXPIRATION"),
    "assume-role-with-web-identity": ("AWS_WEB_IDENTITY_TOKEN_FILE",),
    "container-role": (
        *("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
        *("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN"),
    ),
    "iam-role": ("AWS_EC2_METADATA_SERVICE_ENDPOINT",),
    "ec2-credentials-file": ("AWS_CREDENTIAL_FILE",),
    "boto-config": ("BOTO_CONFIG",),
}
"""The variables that configure each provider."""

_DAMAGED = {
    "env": "AWS_CREDENTIAL_EXPIRATION is not a time, such as 2030-01-31T12:00:00Z",
    "custom-process": "its program does not print the JSON of credentials, with Version 1",
    "sso": "its cached token in ~/.aws/sso/cache is damaged",
    "login": "its cached token in ~/.aws/login/cache is damaged",
    "container-role": "it does not give the JSON of credentials",
    "iam-role": "it does not give the JSON of credentials",
}
"""The fault of a provider's content, if nothing closer is known."""

_FIXES = {
    "explicit": "give the access key and its secret without other characters",
    "env": "set the variables anew, or unset them all for the other providers to count",
    "assume-role": "check the role and its source in the profile: `aws sts get-caller-identity` uses the same",
    "assume-role-with-web-identity": "check the token file and the role: AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN, "
    "or the profile's web_identity_token_file and role_arn",
    "sso": "log in again: `aws sso login`, with --profile if it is not the default one",
    "login": "log in again: `aws login`, with --profile if it is not the default one",
    "custom-process": "run the profile's credential_process yourself: what it prints is not shown here, because that "
    "may hold keys",
    "container-role": "check the container's role, and the variables AWS_CONTAINER_* where the job runs",
    "iam-role": "check that the instance has a role: `aws ec2 describe-instances` shows IamInstanceProfile",
}
_FIX = "check the file, and the profile in use (AWS_PROFILE)"
MFA_FIX = "use credentials that last as long as the job: `aws configure export-credentials` asks for the code"

_CAUSES: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str, bool], ...] = (
    ((CredentialRetrievalError, MetadataRetrievalError), "it gives no credentials", True),
    (RefreshWithMFAUnsupportedError, "its MFA code cannot be asked for again", False),
    (TimeoutError, "no answer in time", True),
    (RuntimeError, "the credentials that it gives have expired", False),
)
"""Words for an exception, and True if a repeat may help."""

_UNSENDABLE = re.compile(r"[^\x21-\x7e]")
"""Characters that no access key or token has, and no header may have."""
_STATUS = re.compile(r"Received non 200 response ([0-9]{3})")
_OF_SDK = re.compile(r"(?:Unsupported host|Auth token value|No closing).*")
"""Errors of the SDK's own checks, which quote no secret."""


class Border:
    """Translates what one provider raises; `method` is the SDK's name of the provider, '' before the first one."""

    def __init__(self, method: str, files: Mapping[str, str], profile: str) -> None:
        """`files` are the paths of the SDK's configuration files, by the names of its variables."""
        self.method = method
        self._files = files
        self._profile = profile

    @contextmanager
    def guarding(self) -> Iterator[None]:
        """Raise every failure inside as `ProviderError`."""
        try:
            yield
        except (AmistreamError, ConfigParseError, ProfileNotFound):
            raise
        except Exception as error:  # noqa: BLE001 - providers raise whatever their content leads to
            # Without its cause, which a log would quote.
            raise self._translated(error) from None

    def cleaned(self, access_key: object, secret_key: object, token: object) -> tuple[str, str, str | None]:
        """Strip the keys of white space, which often comes with files. Raises `ProviderError` for unusable ones."""
        names = KEYS.get(self.method, ("the access key", "the secret key", "the session token"))
        keys = []
        for name, key in zip(names, (access_key, secret_key, token or ""), strict=True):
            if not isinstance(key, str):
                raise ProviderError(said=f"{name} is not text")
            keys.append(key.strip())
            if not keys[-1] and name != names[2]:
                raise ProviderError(said=f"{name} is empty")
            # The secret key itself is never sent.
            if name != names[1] and (bad := _UNSENDABLE.search(keys[-1])):
                place = f"character {bad.start() + 1} of {len(keys[-1])}, U+{ord(bad[0]):04X},"
                raise ProviderError(said=f"{place} of {name} cannot be part of it")
        return keys[0], keys[1], keys[2] or None

    def _translated(self, error: Exception) -> ProviderError:
        if isinstance(error, ProviderError) and error.place:
            return error  # of a role's source
        said, transient = self._cause(error)
        fix = MFA_FIX if isinstance(error, RefreshWithMFAUnsupportedError) else _FIXES.get(self.method, _FIX)
        return ProviderError(said=said, place=self._place(), fix=getattr(error, "fix", "") or fix, transient=transient)

    def _cause(self, error: Exception) -> tuple[str, bool]:
        """The words for it, and True if a repeat may help."""
        if isinstance(error, ProviderError):
            return str(error), error.transient
        if isinstance(error, PartialCredentialsError):
            return f"{error.kwargs['cred_var']} is missing", False
        damaged = _DAMAGED.get(self.method, f"its content is damaged ({type(error).__name__})")
        if isinstance(error, CredentialRetrievalError) and self.method == "custom-process":
            return damaged, False
        for kinds, words, transient in _CAUSES:
            if isinstance(error, kinds):
                status = _STATUS.search(str(error))
                return words + (f" (HTTP {status[1]})" if status else ""), transient
        if isinstance(error, OSError):
            # Another name may be a token, set in place of the file that has it.
            path = str(error.filename)
            return f"cannot read {path if path.startswith('/') else 'its file'}: {error.strerror}", False
        if isinstance(error, ClientError):
            code = re.sub(r"[^\w.]", "", error_code(error)) or f"HTTP {http_status(error)}"
            return f"its service answers {code}", translate(error, "").transient
        if isinstance(error, InvalidConfigError):
            return str(error).rstrip("."), False
        if isinstance(error, BotoCoreError):
            found = translate(error, "")
            return found.message.partition(": ")[2], found.transient
        ours = _OF_SDK.match(str(error))
        return ours[0] if ours else damaged, False

    def _place(self) -> str:
        """The provider, and what configures it."""
        name = NAMES.get(self.method, "the configuration")
        variables = [each for each in _VARIABLES.get(self.method, ()) if os.environ.get(each)]
        if variables:
            return f"{name} ({', '.join(variables)})"
        if self.method in {"explicit", "iam-role", "boto-config"}:
            return name
        file = self._files["credentials_file" if self.method == "shared-credentials-file" else "config_file"]
        return f"{name} (profile {self._profile} in {file})"
