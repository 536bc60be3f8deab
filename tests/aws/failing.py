"""The SDK's providers of credentials, each well at first and then broken in one of several ways.

One server plays STS, IAM Identity Center, a container's and an instance's service, and an S3 that takes everything;
files and a program play the rest. Credentials end in five minutes, so the SDK renews them for every request.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha1
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

SECRET = "wJalrXUtnFEMI-K7MDENG"
ACCOUNT_KEY = "123456789012"
"""Ministack takes such an access key for the account."""
START_URL = "https://example.awsapps.com/start"

STS_REFUSES = (
    "<ErrorResponse><Error><Type>Sender</Type><Code>InvalidIdentityToken</Code>"
    f"<Message>token={SECRET}</Message></Error></ErrorResponse>"
)


def ends(minutes: float = 5) -> str:
    return (datetime.now(UTC) + timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class World:
    """The files, the server and their state: `way` names how the provider is broken, '' for not at all."""

    folder: Path
    url: str = ""
    way: str = ""
    broken: dict[str, Any] = field(default_factory=dict)

    def break_it(self, way: str) -> None:
        self.way = way
        if callable(self.broken[way]):
            self.broken[way](self)

    def answer(self, well: Any) -> web.Response:
        said = self.broken.get(self.way, well)
        if callable(said):
            said = well
        status, body = said if isinstance(said, tuple) else (200, said)
        return web.Response(status=status, text=body if isinstance(body, str) else json.dumps(body))


@asynccontextmanager
async def running(world: World) -> AsyncIterator[World]:
    """Serve until the test ends."""

    async def sts(request: web.Request) -> web.Response:
        action = str((await request.post())["Action"])
        keys = f"<AccessKeyId>{ACCOUNT_KEY}</AccessKeyId><SecretAccessKey>demo</SecretAccessKey>"
        inner = f"<Credentials>{keys}<SessionToken>t</SessionToken><Expiration>{ends()}</Expiration></Credentials>"
        return world.answer(f"<{action}Response><{action}Result>{inner}</{action}Result></{action}Response>")

    async def portal(_: web.Request) -> web.Response:
        end = int((datetime.now(UTC) + timedelta(minutes=5)).timestamp() * 1000)
        keys = {"accessKeyId": ACCOUNT_KEY, "secretAccessKey": "demo", "sessionToken": "t", "expiration": end}
        return world.answer({"roleCredentials": keys})

    async def keys(_: web.Request) -> web.Response:
        return world.answer({**pair(), "Token": "t", "Code": "Success"})

    async def text(request: web.Request) -> web.Response:
        return web.Response(text="a-token" if request.method == "PUT" else "a-role")

    app = web.Application()
    app.router.add_post("/", sts)
    app.router.add_get("/federation/credentials", portal)
    app.router.add_get("/container", keys)
    app.router.add_put("/latest/api/token", text)
    app.router.add_get("/latest/meta-data/iam/security-credentials/", text)
    app.router.add_get("/latest/meta-data/iam/security-credentials/a-role", keys)
    app.router.add_route("HEAD", "/bucket", text)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    world.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield world
    finally:
        await runner.cleanup()


def pair(**changes: Any) -> dict[str, Any]:
    return {"AccessKeyId": ACCOUNT_KEY, "SecretAccessKey": "demo", "Expiration": ends(), **changes}


@dataclass(frozen=True, kw_only=True)
class Provider:
    """`set_up` returns the environment; `named` must be in every message; `ways` are answers, or change the world."""

    named: tuple[str, ...]
    set_up: Callable[[World], dict[str, str]]
    ways: dict[str, Any]
    only_later: tuple[str, ...] = ()
    """Ways in which the provider seems to be absent at first."""


def _profile(world: World, **lines: str) -> dict[str, str]:
    config = world.folder / "config"
    config.write_text("\n".join(["[default]", *(f"{name} = {value}" for name, value in lines.items())]) + "\n")
    return {"AWS_CONFIG_FILE": str(config)}


def _process(world: World) -> dict[str, str]:
    program = world.folder / "program"
    _print(json.dumps({"Version": 1, "SessionToken": "t", **pair()}))(world)
    return _profile(world, credential_process=str(program))


def _print(text: str, after: str = "") -> Callable[[World], None]:
    def change(world: World) -> None:
        (world.folder / "printed").write_text(text)
        program = world.folder / "program"
        program.unlink(missing_ok=True)
        program.write_text(f"#!/bin/sh\n# {SECRET}\necho {SECRET} >&2\ncat {world.folder / 'printed'}\n{after}\n")
        program.chmod(0o700)

    return change


def _remove(name: str) -> Callable[[World], None]:
    return lambda world: (world.folder / name).unlink()


def _replace(name: str, text: str | None) -> Callable[[World], None]:
    """Write a file anew, or make a directory of it."""

    def change(world: World) -> None:
        path = world.folder / name
        path.unlink()
        path.mkdir() if text is None else path.write_text(text)

    return change


def _web_identity(world: World) -> dict[str, str]:
    (world.folder / "token").write_text(SECRET)
    role = {
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(world.folder / "token"),
        "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/r",
    }
    return {**role, "AWS_ENDPOINT_URL_STS": world.url}


def _role(world: World) -> dict[str, str]:
    (world.folder / "keys").write_text(
        f"[source]\naws_access_key_id = {ACCOUNT_KEY}\naws_secret_access_key = {SECRET}\n"
    )
    files = _profile(world, role_arn="arn:aws:iam::123456789012:role/r", source_profile="source")
    return {**files, "AWS_SHARED_CREDENTIALS_FILE": str(world.folder / "keys"), "AWS_ENDPOINT_URL_STS": world.url}


def sso_token(world: World) -> Path:
    return world.folder / f"{sha1(START_URL.encode()).hexdigest()}.json"


def _sso(world: World) -> dict[str, str]:
    sso_token(world).write_text(json.dumps({"accessToken": SECRET, "expiresAt": ends(600)}))
    settings = {
        "sso_start_url": START_URL,
        "sso_region": "eu-west-1",
        "sso_account_id": ACCOUNT_KEY,
        "sso_role_name": "r",
    }
    return {**_profile(world, **settings), "AWS_ENDPOINT_URL_SSO": world.url}


def _container(world: World) -> dict[str, str]:
    (world.folder / "token").write_text(SECRET)
    variable = {"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(world.folder / "token")}
    return {**variable, "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{world.url}/container"}


def _instance(world: World) -> dict[str, str]:
    return {"AWS_EC2_METADATA_DISABLED": "false", "AWS_EC2_METADATA_SERVICE_ENDPOINT": world.url}


def _of_sts(role: str) -> dict[str, Any]:
    old = f"<SessionToken>t</SessionToken><Expiration>{ends(-60)}</Expiration>"
    keys = f"<AccessKeyId>{ACCOUNT_KEY}</AccessKeyId><SecretAccessKey>{SECRET}</SecretAccessKey>{old}"
    return {
        "refused": (400, STS_REFUSES),
        "unavailable": (503, SECRET),
        "not XML": f"please log in {SECRET}",
        "hollow": f"<{role}Response><{role}Result/></{role}Response>",
        "expired": f"<{role}Response><{role}Result><Credentials>{keys}</Credentials></{role}Result></{role}Response>",
    }


_ANSWERS: dict[str, Any] = {
    "refused": (403, SECRET),
    "not JSON": f"please log in {SECRET}",
    "wrong types": {**pair(AccessKeyId=7, SecretAccessKey=SECRET), "Token": "t"},
    "no time": {**pair(Expiration=SECRET), "Token": "t"},
}

PROVIDERS = {
    "process": Provider(
        named=("a credential process", "profile default in ", "config"),
        set_up=_process,
        ways={
            "missing": _remove("program"),
            "not JSON": _print(f"please log in {SECRET}"),
            "a list": _print(f'["{SECRET}"]'),
            "bytes": lambda world: (world.folder / "printed").write_bytes(b"\xff\xfe"),
            "status": _print("{}", after="exit 3"),
            "expired": _print(json.dumps({"Version": 1, "SessionToken": SECRET, **pair(Expiration=ends(-60))})),
            "wrong types": _print(json.dumps({"Version": 1, "SessionToken": "t", **pair(SecretAccessKey=[SECRET])})),
            "another version": _print(json.dumps({"Version": SECRET, **pair()})),
            "no zone": _print(
                json.dumps({"Version": 1, "SessionToken": "t", **pair(Expiration="2030-01-31T12:00:00")})
            ),
            "a key of two lines": _print(json.dumps({"Version": 1, "SessionToken": f"{SECRET}\n{SECRET}", **pair()})),
            "megabytes": _print(f'"{SECRET * 100_000}"'),
        },
    ),
    "web identity": Provider(
        named=("a role assumed by a web identity", "AWS_WEB_IDENTITY_TOKEN_FILE"),
        set_up=_web_identity,
        ways={
            "no token": _remove("token"),
            "a directory": _replace("token", None),
            **_of_sts("AssumeRoleWithWebIdentity"),
        },
    ),
    "role": Provider(named=("an assumed role", "profile default in "), set_up=_role, ways=_of_sts("AssumeRole")),
    "sso": Provider(
        named=("IAM Identity Center", "profile default in "),
        set_up=_sso,
        ways={
            "no token": lambda world: sso_token(world).unlink(),
            "not JSON": lambda world: sso_token(world).write_text(SECRET),
            "no time": lambda world: sso_token(world).write_text(
                json.dumps({"accessToken": SECRET, "expiresAt": "soon"})
            ),
            "expired": lambda world: sso_token(world).write_text(
                json.dumps({"accessToken": SECRET, "expiresAt": ends(-60)})
            ),
            "refused": (401, json.dumps({"message": SECRET})),
            "hollow": "{}",
        },
    ),
    "container": Provider(
        named=("the container's role", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        set_up=_container,
        ways={
            "no token": _remove("token"),
            "two lines": _replace("token", f"{SECRET}\n{SECRET}"),
            "a list": [SECRET],
            **_ANSWERS,
        },
    ),
    "instance": Provider(
        named=("the instance's role",),
        set_up=_instance,
        ways={"a list": ["AccessKeyId", "SecretAccessKey", "Token", "Expiration"], **_ANSWERS},
        only_later=("refused", "not JSON"),
    ),
}
"""Every provider that renews its credentials but `login`, which needs an optional library."""


def prepare(world: World, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set up the provider, well, and no other one."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("botocore.credentials.SSOProvider._SSO_TOKEN_CACHE_DIR", str(world.folder))
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)
    # Else the SDK makes an instance's credentials last longer.
    monkeypatch.setattr("botocore.utils.InstanceMetadataFetcher._evaluate_expiration", lambda *_: None)
    for path in world.folder.iterdir():
        path.rmdir() if path.is_dir() else path.unlink()
    world.way, world.broken = "", provider.ways
    for name, value in provider.set_up(world).items():
        monkeypatch.setenv(name, value)
