"""Printed objects, errors and loggers show no secret."""

from __future__ import annotations

import gc
import logging
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from amistream import log
from amistream.aws.translate import translate
from amistream.errors import StoreError
from amistream.events import State
from amistream.jobs.job import Job
from amistream.keys import BundleKey, Secret
from amistream.settings import LogFormat
from amistream.stores.directory import DirectoryStore
from jobs.work import request, running_engine, settings
from security.leaks import Form, forms, forms_of_key, search
from support.logs import restored_log
from support.volumes import random_image

if TYPE_CHECKING:
    from support.keys import KeyRing

__all__ = ["restored_log"]

KEY, IV = bytes.fromhex("9c1fd3a87e02b6454f8ad0e7c3916b28"), bytes.fromhex("e54a07bc913df2680d85c97b2e4fa116")


def everything_of_ours() -> dict[str, bytes]:
    """Print each living object of the service."""
    return {
        f"{type(thing).__module__}.{type(thing).__qualname__} {number}": repr(thing).encode(errors="replace")
        for number, thing in enumerate(gc.get_objects())
        if str(type(thing).__module__).partition(".")[0] == "amistream"
    }


@pytest.mark.parametrize("ends_well", [True, False])
async def test_no_object_prints_a_secret(
    tmp_path: Path, key_ring: KeyRing, monkeypatch: pytest.MonkeyPatch, ends_well: bool
) -> None:
    """While a job's parts are written, and when one fails, every object of ours is printed and searched."""
    monkeypatch.setattr(BundleKey, "generate", lambda: BundleKey(Secret(KEY), Secret(IV)))
    printed: dict[str, bytes] = {}
    put = DirectoryStore.put

    async def look_and_put(store: DirectoryStore, name: str, data: memoryview, sha1: bytes, on_bytes: Any) -> None:
        printed.update(everything_of_ours())
        if not ends_well:
            raise StoreError("directory.full", "cannot write: no space left")
        await put(store, name, data, sha1, on_bytes)

    monkeypatch.setattr(DirectoryStore, "put", look_and_put)
    chosen = settings(tmp_path)
    job = Job(request(random_image(tmp_path / "image", 700_000), tmp_path / "out", key_ring))
    async with running_engine(chosen) as engine:
        await engine.enter(job)
        await engine.run(job)
    printed |= everything_of_ours()
    assert job.state is (State.DONE if ends_well else State.FAILED)
    kinds = {name.split()[0].rpartition(".")[2] for name in printed}
    assert kinds >= {"BundleKey", "Secret", "UserIdentity", "Encrypt", "Pipeline", "BundleRun", "Job", "BundleRequest"}
    wanted = [*forms("key", KEY), *forms("IV", IV), *forms_of_key("user's key", key_ring.user.key)]
    assert search(wanted, printed) == []


def test_a_printed_secret_would_be_found() -> None:
    """Bytes in an object that prints its fields are found by the search above."""
    printed = {"a tuple": repr((1, IV)).encode(), "a list": repr(list(IV)).encode()}
    assert search(forms("IV", IV), printed) == ["IV, repr in a tuple", "IV, list in a list"]


@pytest.mark.parametrize("code", ["ExpiredToken", "SignatureDoesNotMatch", "InvalidAccessKeyId", "InternalError"])
def test_the_text_of_s3_errors_is_not_shown(code: str) -> None:
    """S3 repeats tokens and signed text in its errors; neither message, hint nor traceback shows them."""
    token = "FwoGZXIvYXdzEBYaDO" * 5
    reply = {"Error": {"Code": code, "Message": "It is so.", "Token-0": token, "CanonicalRequest": f"token:{token}"}}
    try:
        try:
            raise ClientError(reply, "PutObject")  # type: ignore[arg-type, unused-ignore]  # the stubs do not know what S3 adds
        except ClientError as error:
            raise translate(error, "write a part") from error
    except StoreError as error:
        text = "".join((str(error), repr(error), *error.as_dict().values(), *traceback.format_exception(error)))
    assert code in text
    assert search([Form("token", token.encode())], {"error": text.encode()}) == []


def _forget_levels() -> None:
    """Clear the levels that loggers cache."""
    logging.getLogger("amistream.any").setLevel(logging.NOTSET)


@pytest.mark.usefixtures("restored_log")
@pytest.mark.parametrize("name", ["botocore", "botocore.auth", "aiobotocore", "aiohttp.client", "asyncio", "urllib3"])
@pytest.mark.parametrize("log_format", LogFormat)
def test_other_loggers_cannot_be_made_to_talk(
    name: str, log_format: LogFormat, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lowering the level of the SDK's loggers adds no line below WARNING to our log."""
    log.configure("debug", log_format)
    logger = logging.getLogger(name)
    monkeypatch.setattr(logger, "level", logging.DEBUG)
    monkeypatch.setattr(logging.getLogger(), "level", logging.DEBUG)
    _forget_levels()
    assert logger.isEnabledFor(logging.DEBUG)
    for level in (logging.DEBUG, logging.INFO):
        logger.log(level, "Authorization: %s", "the signature")
    logger.warning("worth knowing")
    text = capsys.readouterr().err
    _forget_levels()
    assert "signature" not in text
    assert "worth knowing" in text
