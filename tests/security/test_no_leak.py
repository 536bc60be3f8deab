"""No secret is written, shown or stored: runs jobs of every outcome, then searches all visible data."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from amistream.jobs.journal import Journal
from security.leaks import Form, Watcher, files_below, forms, forms_of_key, search
from support.buckets import download_bundle
from support.daemons import Daemon, identity, owner, running_daemon
from support.proxy import Answer, Fault, PauseRequest, StallBody, dry_run_answered
from support.referee import read_bundle, unwrap
from support.volumes import random_image

if TYPE_CHECKING:
    from conftest import MakeBucket, MakeProxy
    from support.endpoints import Endpoint
    from support.keys import KeyRing
    from support.proxy import FaultProxy

SIZE = 3 * (1 << 20) + 12345
PART = "512KiB"
HAS_QEMU = bool(shutil.which("qemu-img") and shutil.which("qemu-nbd"))
"""Use an image that a child process of the daemon reads as one of the volumes."""


@dataclass
class Life:
    """The place of the test, and all data collected in it."""

    folder: Path
    proxy: FaultProxy
    stalled: Fault
    paused: Fault
    bucket: str
    key_ring: KeyRing
    jobs: dict[str, str] = field(default_factory=dict)
    wanted: list[Form] = field(default_factory=list)
    secret_key: str = field(default_factory=lambda: secrets.token_urlsafe(30))
    session_token: str = field(default_factory=lambda: secrets.token_urlsafe(120))
    shown: dict[str, bytes] = field(default_factory=dict)

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"

    @property
    def own_key(self) -> Path:
        """The one file that may hold a secret."""
        return self.state_dir / "user-private-key.pem"

    def write_credentials(self, access_key: str) -> None:
        path = self.folder / ".aws" / "credentials"
        path.parent.mkdir()
        path.write_text(
            f"[default]\naws_access_key_id = {access_key}\naws_secret_access_key = {self.secret_key}\n"
            f"aws_session_token = {self.session_token}\n"
        )
        path.chmod(0o600)

    @contextmanager
    def daemon(self, name: str, **settings: object) -> Iterator[Daemon]:
        """Run a daemon at level debug; its output is stored under `name`."""
        chosen = {"log_level": "debug", "part_size": PART, "endpoint_url": self.proxy.url, "region": "eu-west-1"}
        quick = {"register_poll_s": 0.05, "backoff_base_s": 0.01, "backoff_cap_s": 0.05, "upload_attempts": 2}
        with running_daemon(self.folder, None, forked=False, **chosen, **quick, **settings) as running:
            try:
                yield running
            finally:
                self.shown[f"log of the {name} daemon"] = running.process.output().encode()

    def keep_state(self, when: str) -> None:
        for path, content in files_below(self.state_dir, but=(self.own_key,)).items():
            self.shown[f"{path} {when}"] = content

    def keep(self, what: str, done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
        self.shown[f"output of {what}"] = (done.stdout + done.stderr).encode()
        return done

    def keep_answers(self, daemon: Daemon, when: str) -> None:
        """Send every request that the API has, and some that fail."""
        paths = ["/v1/jobs", "/v1/health", "/v1/openapi.json", "/metrics", "/v1/jobs/none", "/nowhere"]
        ended = {job["id"] for job in daemon.curl("/v1/jobs")[1]["jobs"] if job["ended_at"] is not None}
        for job in self.jobs.values():
            paths += [f"/v1/jobs/{job}"] + ([f"/v1/jobs/{job}/events"] if job in ended else [])
        for path in paths:
            _, body = daemon.curl(path, "-N")
            self.shown[f"answer to {path} {when}"] = json.dumps(body, ensure_ascii=False).encode()
        _, body = daemon.curl("/v1/jobs", "-d", '{"source": "/x", "destinations": ["/y"], "private_key": "no path"}')
        self.shown[f"answer to a wrong request {when}"] = json.dumps(body).encode()


@contextmanager
def following(daemon: Daemon, job: str, to: Path) -> Iterator[None]:
    """Store the events of a job as they come, until the daemon or the job ends."""
    url = f"http://d/v1/jobs/{job}/events"
    with to.open("wb") as file:
        process = subprocess.Popen(["curl", "-sN", "--unix-socket", str(daemon.socket), url], stdout=file)
        try:
            yield
        finally:
            process.wait(60)


def wrapped_in_the_journal(state_dir: Path, copy: Path, job: str) -> tuple[bytes, bytes]:
    """Read the wrapped key and IV of an unfinished job from the journal."""
    shutil.copytree(state_dir, copy)

    async def ask() -> tuple[bytes, bytes]:
        async with Journal(copy, by_itself=False) as journal:
            kept = await journal.find(job)
            assert kept is not None
            assert kept.bundling is not None
            wrapped = kept.bundling.places[0].wrapped
            return wrapped.user_key, wrapped.user_iv

    try:
        return asyncio.run(ask())
    finally:
        shutil.rmtree(copy)


def bundle_key(directory: Path, name: str, key: Path) -> list[Form]:
    bundle = read_bundle(directory, key)
    return [
        *forms(f"key of the {name} bundle", bytes.fromhex(bundle.aes_key)),
        *forms(f"IV of the {name} bundle", bytes.fromhex(bundle.aes_iv)),
    ]


@pytest.fixture
def life(
    ministack: Endpoint, make_proxy: MakeProxy, make_bucket: MakeBucket, key_ring: KeyRing, tmp_path: Path
) -> Life:
    """Make a place in which one job will fail, one hang and one wait."""
    # Not one of the first four parts, which are sent at once: some must be stored so that the job is kept.
    refused = Fault(action=Answer(status=403, code="AccessDenied"), path=".*/bad/.*part.05", times=None)
    stalled = Fault(action=StallBody(after=1000), path=".*/killed/.*part.03", times=None)
    # The volume, and the process that reads it, stay open until the last manifest is put.
    paused = Fault(action=PauseRequest(), path=".*/packed/.*manifest.xml")
    proxy = make_proxy(ministack, dry_run_answered(), refused, stalled, paused)
    folder = tmp_path / "life"
    (folder / "tmp").mkdir(parents=True)
    made = Life(folder, proxy, stalled, paused, make_bucket(ministack), key_ring)
    made.write_credentials(ministack.access_key)
    return made


def a_first_daemon(life: Life, watcher: Watcher) -> None:
    """Run four jobs: one is done and registered, one fails, one uses the daemon's own key, one runs at the kill."""
    folder, bucket, keys = life.folder, life.bucket, life.key_ring
    image = random_image(folder.parent / "disk.img", SIZE)
    packed = folder.parent / "disk.qcow2"
    if HAS_QEMU:
        subprocess.run(["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", image, packed], check=True)
    pair = {"source": str(image), **owner(keys)}
    with life.daemon("first") as daemon:
        command = daemon.command(
            *("bundle", image, "--to", f"s3://{bucket}/good", "--ami-name", f"x {bucket}", "--json"),
            *identity(keys),
        )
        assert life.keep("bundle", command).returncode == 0, command.stderr
        life.jobs["good"] = json.loads(command.stdout)["id"]

        bad = life.jobs["bad"] = daemon.submit(**pair, destinations=[f"s3://{bucket}/bad"], register_image=False)
        with following(daemon, bad, folder.parent / "bad.events"):
            assert daemon.wait_ended(bad)["state"] == "failed"
        life.keep("watch", daemon.command("watch", bad))
        wrapped = wrapped_in_the_journal(life.state_dir, folder.parent / "copy", bad)
        for name, secret in zip(("key", "IV"), wrapped, strict=True):
            life.wanted += forms(f"{name} of the failed bundle", bytes.fromhex(unwrap(secret, keys.user.key)))

        own = life.jobs["own"] = daemon.submit(
            account="123456789012",
            source=str(image),
            destinations=[str(folder / "bundle")],
            ec2_certificate=pair["ec2_certificate"],
        )
        with following(daemon, own, folder.parent / "own.events"):
            assert daemon.wait_ended(own)["state"] == "done"

        if HAS_QEMU:
            from_packed = {**pair, "source": str(packed), "register_image": False}
            life.jobs["packed"] = daemon.submit(**from_packed, destinations=[f"s3://{bucket}/packed"])
            life.proxy.wait_hit(life.paused)
            watcher.look()
            life.proxy.let_go(life.paused)
            assert daemon.wait_ended(life.jobs["packed"])["state"] == "done"

        killed = daemon.submit(**pair, destinations=[f"s3://{bucket}/killed"], ami_name=f"y {bucket}")
        life.jobs["killed"] = killed
        with following(daemon, killed, folder.parent / "killed.events"):
            life.proxy.wait_hit(life.stalled)
            life.keep_state("while a job runs")
            life.keep_answers(daemon, "while a job runs")
            os.kill(daemon.process.pid, signal.SIGKILL)
        life.keep_state("after the daemon was killed")
    daemon.socket.unlink()


def a_second_daemon(life: Life) -> None:
    """Resume the killed job, and send every request."""
    life.proxy.mend(life.stalled)
    killed = life.jobs["killed"]
    with life.daemon("second") as daemon:
        with following(daemon, killed, life.folder.parent / "resumed.events"):
            assert daemon.wait_ended(killed)["state"] == "done"
        life.keep_answers(daemon, "at the end")
        for line in (("jobs", "--json"), ("status", killed), ("doctor",), ("cancel", life.jobs["bad"])):
            life.keep(" ".join(line), daemon.command(*line))
        life.keep_state("at the end")
    life.keep_state("after the end")


def gather(life: Life, ministack: Endpoint) -> None:
    """Collect all files, and the secrets."""
    tmp_path, keys = life.folder.parent, life.key_ring
    life.shown |= {path.name: path.read_bytes() for path in tmp_path.glob("*.events")}
    life.shown |= files_below(life.folder / "tmp")
    life.shown["manifest of the daemon's own"] = (life.folder / "bundle" / "image.manifest.xml").read_bytes()
    for name in ("good", "killed", *(("packed",) if HAS_QEMU else ())):
        download_bundle(ministack, life.bucket, f"{name}/", tmp_path / name)
        life.shown[f"manifest of the {name} one"] = (tmp_path / name / "image.manifest.xml").read_bytes()
        life.wanted += bundle_key(tmp_path / name, name, keys.user.key)
    life.wanted += bundle_key(life.folder / "bundle", "own", life.own_key)
    life.wanted += forms_of_key("user's key", keys.user.key) + forms_of_key("daemon's own key", life.own_key)
    life.wanted += forms("secret access key", life.secret_key.encode())
    life.wanted += forms("session token", life.session_token.encode())


def check_that_it_was_looked_at(life: Life, watcher: Watcher) -> None:
    """Assert that there is data to search, and that the search finds the secrets in the places where they belong."""
    token = life.session_token
    assert any(request.headers.get("x-amz-security-token") == token for request in life.proxy.requests)
    for name in ("first", "second"):
        assert life.shown[f"log of the {name} daemon"].count(b'"level": "debug"') > 10
    assert life.jobs["bad"].encode() in life.shown["log of the first daemon"]
    for when in ("while a job runs", "after the daemon was killed", "at the end"):
        journal = [text for name, text in life.shown.items() if "journal.sqlite" in name and name.endswith(when)]
        assert len(journal) > 1
        assert life.jobs["killed"].encode() in b"".join(journal)
    assert b'"state":"bundling"' in life.shown["killed.events"]
    for program in ("amistreamd", "qemu-nbd") if HAS_QEMU else ("amistreamd",):
        assert any(program in name and "environment" in name for name in watcher.seen), program
    control = {**files_below(life.folder / ".aws"), str(life.own_key): life.own_key.read_bytes()}
    found = search(life.wanted, control)
    assert {name.partition(" in ")[0] for name in found} >= {"secret access key, raw", "session token, raw"}
    assert sum("daemon's own key, line" in name for name in found) > 20


def test_nothing_secret_is_seen(life: Life, ministack: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon at level debug, whatever the outcome of its jobs, shows no key, IV, private key or credential: not in a
    log, an event, a response, the journal, the state directory or /proc.
    """
    monkeypatch.setenv("TMPDIR", str(life.folder / "tmp"))
    watcher = Watcher("amistream")
    with watcher.watching():
        a_first_daemon(life, watcher)
        a_second_daemon(life)
    gather(life, ministack)
    check_that_it_was_looked_at(life, watcher)
    assert search(life.wanted, {**life.shown, **watcher.seen}) == []


@pytest.mark.parametrize("kind", [form.name for form in forms("it", secrets.token_bytes(16))])
def test_the_search_finds_what_is_there(kind: str) -> None:
    """A secret planted in any encoding is found."""
    secret = secrets.token_bytes(16)
    (planted,) = [form for form in forms("it", secret) if form.name == kind]
    places = {"clean": secrets.token_bytes(100_000), "dirty": os.urandom(5000) + planted.text + os.urandom(5000)}
    found = search(forms("it", secret), places)
    assert f"{kind} in dirty" in found
    assert not [name for name in found if name.endswith("clean")]


@pytest.mark.parametrize("before", range(7))
def test_the_search_finds_base64_of_longer_texts(before: int) -> None:
    """A secret within a longer base64 text is found at any offset."""
    import base64

    secret = secrets.token_bytes(16)
    text = base64.b64encode(secrets.token_bytes(before) + secret + secrets.token_bytes(11))
    assert search(forms("it", secret), {"here": text})
    hexed = base64.urlsafe_b64encode(b"{" * before + secret.hex().encode() + b"}")
    assert search(forms("it", secret), {"here": hexed})


def test_the_search_finds_keys(key_ring: KeyRing) -> None:
    """A private key is found by each line of its file, and a prime in decimal by its digits."""
    wanted = forms_of_key("key", key_ring.user.key)
    lines = key_ring.user.key.read_bytes().splitlines()[1:-1]
    assert len(search(wanted, {"file": key_ring.user.key.read_bytes()})) >= len(lines) - 1
    decimal = next(form for form in wanted if form.name == "key, p, decimal")
    assert search(wanted, {"a number": b"p=" + decimal.text}) == ["key, p, decimal in a number"]


def test_the_watcher_sees_what_processes_show(tmp_path: Path) -> None:
    """A secret in the arguments or environment of a process, or of its child, is found."""
    secret = secrets.token_hex(20)
    watcher = Watcher(str(tmp_path))
    script = "echo ready; env CHILD=$1 sleep 1000 & wait"
    argv = ["sh", "-c", script, str(tmp_path), secret]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, env={**os.environ, "TELLTALE": secret}, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            while not any("sleep" in name for name in watcher.seen):
                watcher.look()
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    found = search([Form("it", secret.encode())], watcher.seen)
    assert any("command line" in name for name in found)
    assert any("environment" in name and "sleep" in name for name in found)
