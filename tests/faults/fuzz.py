"""Gives the daemon, the commands and the older commands what nobody would, and judges what comes of it.

    python tests/faults/fuzz.py --count 5000 --seed 1

A third are requests on a real daemon's socket, a third manifests with false contents, a third command lines. None may
end in an error of amistream itself (status 1, HTTP 500, a traceback), hang, or leave anything behind; neither the
daemon nor the process that runs the commands may need more than `MOST_MEMORY`. Every case follows from seed and number.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from amistream.cli import main as new_commands
from amistream.compat import main as old_commands
from amistream.compat.tables import known_names
from amistream.errors import EXIT_DONE, JobError
from bundles.shell_bundle import EVERYTHING, Form, shell_bundle
from support.daemons import Daemon, owner, peak_rss, running_daemon
from support.keys import make_keys
from support.volumes import random_image

if TYPE_CHECKING:
    from support.keys import KeyRing

MOST_MEMORY = 250 << 20
LONGEST_S = 60
OPENED_ONCE = 4
MORE_S = 1
"""Wait for the answer to a request that may look unfinished to the daemon."""
BUGS = re.compile(r"Traceback|internal\.bug|in amistream itself")
NOWHERE = "http://127.0.0.1:9"
"""An endpoint that refuses every connection."""
QUICK = {"upload_attempts": 1, "backoff_base_s": 0.01, "register_timeout_s": 1}
# Relative paths lie in the round's own directory; nothing here names another that could be written to.
ODD: Sequence[Any] = (
    *(
        "",
        " ",
        "-",
        "--",
        "-1",
        "0",
        "1",
        "9" * 30,
        "1e308",
        "nan",
        "0x10",
        "10MiB",
        "1KiB",
        "-5GiB",
        "99999PiB",
        "true",
    ),
    *("\0", "\n", "\x1b[2J", "\udcff", "\ud800", "é", "\u202e", "a" * 300, "a" * 5000, "%s%n", "{}", "$(id)", "';--"),
    *("./.", "x//y", "/dev/null", "/dev/full", "file:///etc/passwd", "s3://", "s3://b", "s3:///x"),
    *("s3://bucket/x", "s3://bucket/../x", "s3://BUCKET", "http://", NOWHERE, "http://[::1", "ami-12345678", "aki-1"),
)
FORMS = (Form(), Form(quote="'", **EVERYTHING), Form(pretty=True, user_keys=False))
ODD_JSON: Sequence[Any] = (None, True, False, 0, -1, 1.5, 10**30, [], {}, [[]], {"a": {}}, ["x"] * 200, *ODD)


@dataclass
class Verdict:
    """The answers by kind and status, and what was wrong."""

    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def blame(self, kind: str, number: int, case: object, what: str) -> None:
        self.wrong.append(f"{kind} {number}: {what}\n    {str(case)[:600]}")


class Fuzz:
    """A seeded round in one directory, in which everything lies that is named."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.seed = seed
        for name in ("keys", "folder"):
            (directory / name).mkdir()
        self.keys: KeyRing = make_keys(directory / "keys")
        self.image = random_image(directory / "disk.img", 200_000)
        for number, form in enumerate(FORMS):
            shell_bundle(directory / "bundles" / str(number), self.image, self.keys, form=form)
        os.mkfifo(directory / "pipe")
        (directory / "link").symlink_to("link")
        self.verdict = Verdict()

    def dice(self, kind: str, number: int) -> random.Random:
        return random.Random(f"{self.seed} {kind} {number}")

    def paths(self) -> Sequence[str]:
        """Paths to choose from, with all kinds of things behind them or nothing."""
        names = ("disk.img", "folder", "pipe", "link", "missing", "missing/deep", "folder/new", "keys", "disk.img/x")
        return [str(self.directory / name) for name in names]

    def odd(self, dice: random.Random) -> Any:
        return dice.choice((dice.choice(self.paths()), dice.choice(ODD)))


# Requests


def mutated(value: Any, dice: random.Random, odd: Callable[[], Any]) -> Any:
    """Change, drop or add something somewhere in a JSON value."""
    if isinstance(value, dict) and value and dice.random() < 0.8:
        name = dice.choice(list(value))
        changed = {**value, name: mutated(value[name], dice, odd)}
        match dice.randrange(8):
            case 0:
                del changed[name]
            case 1:
                changed[str(dice.choice(ODD))] = changed.pop(name)
            case _:
                pass
        return changed
    if isinstance(value, list) and value and dice.random() < 0.6:
        index = dice.randrange(len(value))
        return [*value[:index], mutated(value[index], dice, odd), *value[index + 1 :]] * dice.choice((1, 1, 1, 2))
    return dice.choice((odd(), dice.choice(ODD_JSON)))


FIELDS: dict[str, Any] = {
    "part_size": "64KiB",
    "compress": "fast",
    "prefix": "image",
    "workers": 1,
    "upload_concurrency": 2,
    "memory_limit": "300MiB",
    "nice": 0,
    "limit_upload": "1MiB",
    "image_size": 200_000,
    "live": False,
    "sparse": "auto",
    "region": "us-east-1",
    "endpoint_url": NOWHERE,
    "acl": "aws-exec-read",
    "architecture": "x86_64",
    "virtualization": "hvm",
    "kernel": "aki-12345678",
    "ramdisk": "ari-12345678",
    "block_device_mappings": {"ami": "sda1"},
    "product_codes": ["A1"],
    "ancestors": ["ami-12345678"],
    "ami_name": "a name",
    "description": "words",
    "tags": {"a": "b"},
    "ena": True,
    "sriov": True,
    "register_image": False,
    "all_or_none": False,
}


def a_request(fuzz: Fuzz, dice: random.Random, number: int) -> bytes:
    """A whole HTTP request: mostly a job with something changed, now and then the HTTP itself."""
    place = str(fuzz.directory / "out" / str(number)) if dice.random() < 0.8 else "s3://bucket/x"
    body: Any = {"source": str(fuzz.image), "destinations": [place], **owner(fuzz.keys)}
    body |= dict(dice.sample(sorted(FIELDS.items()), dice.randrange(4)))
    for _ in range(dice.randrange(3)):
        body = mutated(body, dice, lambda: fuzz.odd(dice))
    content = json.dumps(body).encode()
    method, path = "POST", "/v1/jobs"
    headers = {"Host": "d", "Content-Type": "application/json", "Content-Length": str(len(content))}
    headers["Connection"] = "close"
    match dice.randrange(8):
        case 0:
            method = dice.choice(("GET", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "get", "\x00", "POST "))
        case 1:
            word = dice.choice(("..", "%ff", "%00", "a" * 3000, "é", "%2e%2e%2f", "*", "x?state=done", "x?a=b", "?"))
            path = dice.choice(("/v1/jobs/{}", "/v1/jobs/{}/events", "/v1/jobs/{}/resume", "/{}", "{}")).format(word)
            method = dice.choice(("GET", "DELETE", "POST"))
        case 2:
            name = dice.choice(
                ("Content-Encoding", "Transfer-Encoding", "Expect", "Content-Length", "Idempotency-Key", "Content-Type")
            )
            headers[name] = dice.choice(
                (
                    "gzip",
                    "br",
                    "deflate",
                    "zstd",
                    "chunked",
                    "100-continue",
                    "-1",
                    "9" * 30,
                    "x" * 9000,
                    "",
                    "\xff",
                    "a;b",
                )
            )
        case 3:
            content = dice.choice((b"[" * 5000, b"\xff" * 30, b"1" * 9000, content[:-3], b"", content * 300))
            headers["Content-Length"] = str(len(content))
        case 4:
            headers[dice.choice(("Upgrade", "Connection", "Last-Event-ID", "Content-Range"))] = str(dice.choice(ODD))
        case _:
            pass
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("utf-8", dice.choice(("surrogatepass", "replace"))) + content


def answer_to(daemon: Daemon, request: bytes) -> bytes:
    """Send the request, and read all that comes until the daemon closes, or waits for more of the request."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(LONGEST_S)
        client.connect(str(daemon.socket))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(request)
        if not is_whole(request):
            client.settimeout(MORE_S)
        answer = b""
        try:
            while piece := client.recv(65536):
                answer += piece
        except ConnectionResetError:
            pass
        except TimeoutError:
            if is_whole(request):
                raise
        return answer


def is_whole(request: bytes) -> bool:
    """Tell a request after which the daemon must answer and close from one of which it may wait for more."""
    head, end, body = request.partition(b"\r\n\r\n")
    lengths = re.findall(rb"Content-Length: (\d{1,9})\r", head + b"\r")
    closes = re.search(rb"Connection: close\r", head + b"\r")
    return bool(end and closes and lengths == [str(len(body)).encode()] and b"Transfer-Encoding" not in head)


def check_answer(answer: bytes) -> str:
    """Name what is wrong with an answer, if anything."""
    if not answer:
        return ""  # the client left before its request was whole
    head, _, body = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").partition(b"\r\n\r\n")
    found = re.match(rb"HTTP/1\.[01] (\d{3}) ", head)
    if found is None or found[1] == b"500" or BUGS.search(answer.decode("latin-1")):
        return "answered " + repr(answer[:400])
    if found[1] >= b"400" and b"text/event-stream" not in head and body:
        try:
            error = json.loads(body)["error"]
        except (ValueError, KeyError, TypeError):
            return "the error is not the documented JSON: " + repr(answer[:400])
        if set(error) != {"code", "message", "hint", "field", "request_id"}:
            return "the error has other fields: " + repr(error)
    return ""


def requests(fuzz: Fuzz, count: int) -> None:
    """Ask a daemon of its own, then cancel all its jobs and look at what is there."""
    home = fuzz.directory / "daemon"
    home.mkdir()
    settings = {**QUICK, "endpoint_url": NOWHERE, "max_queued": 20, "part_size": "64KiB"}
    with running_daemon(home, None, forked=False, **settings) as daemon:
        files = open_files(daemon.process.pid)
        for number in range(count):
            asked = a_request(fuzz, fuzz.dice("request", number), number)
            try:
                answer = answer_to(daemon, asked)
            except TimeoutError:
                fuzz.verdict.blame("request", number, asked, f"no answer within {LONGEST_S} s")
                continue
            fuzz.verdict.answers["request " + answer[9:12].decode("latin-1")] += 1
            if wrong := check_answer(answer):
                fuzz.verdict.blame("request", number, asked, wrong)
        end_jobs(fuzz, daemon)
        if daemon.peak_rss() > MOST_MEMORY:
            fuzz.verdict.blame("request", count, "all", f"the daemon took {daemon.peak_rss() >> 20} MiB")
        if (now := open_files(daemon.process.pid)) > files + OPENED_ONCE:
            fuzz.verdict.blame("request", count, "all", f"the daemon has {now} open files, and had {files}")
        for path in list((fuzz.directory / "out").rglob("*.partial")) + list((fuzz.directory / "out").rglob(".*")):
            fuzz.verdict.blame("request", count, path, "a file is left behind")
    log = (home / "daemon.log").read_text(errors="replace")
    if found := BUGS.search(log):
        fuzz.verdict.blame("request", count, log[found.start() : found.start() + 3000], "the log shows a bug")


def end_jobs(fuzz: Fuzz, daemon: Daemon) -> None:
    """Cancel every job, those too that kept something, and judge its end."""
    for job in daemon.curl("/v1/jobs")[1]["jobs"]:
        daemon.curl(f"/v1/jobs/{job['id']}", "-X", "DELETE")
        try:
            daemon.curl(f"/v1/jobs/{job['id']}/events", "-N", "--max-time", str(LONGEST_S))
        except subprocess.CalledProcessError:
            fuzz.verdict.blame("request", -1, job, f"the job goes on {LONGEST_S} s after it was cancelled")
        if "internal.bug" in json.dumps(ended := daemon.job(job["id"])):
            fuzz.verdict.blame("request", -1, ended, "a job met a bug")


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


# Manifests


def a_manifest(text: bytes, dice: random.Random) -> bytes:
    """Change a few places of a manifest."""
    for _ in range(dice.randint(1, 3)):
        elements = [match.span(2) for match in re.finditer(rb"<(\w+)[^>]*>([^<]*)</\1>", text)]
        if not elements:
            break  # it was cut off
        match dice.randrange(10):
            case 0 | 1 | 2 | 3:
                start, end = dice.choice(elements)
                value = str(dice.choice(ODD)).encode("utf-8", "replace").replace(b"<", b"&lt;")
                text = text[:start] + dice.choice((value, text[start:end] * 2, b"9" * 18)) + text[end:]
            case 4:
                tags = [match.span() for match in re.finditer(rb"</?\w+[^>]*>", text)]
                (start, end), (other, other_end) = dice.choice(tags), dice.choice(tags)
                text = text[:start] + dice.choice((b"", text[other:other_end] * 2)) + text[end:]
            case 5:
                position = dice.randrange(len(text))
                text = text[:position] + dice.randbytes(dice.randint(1, 4)) + text[position + dice.randint(0, 9) :]
            case 6:
                text = text[: dice.randrange(len(text))]
            case 7:
                doctype = b'<!DOCTYPE manifest [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
                text = dice.choice((doctype + text, text.replace(b"<name>", b"<name>&a;"), b"\xff\xfe" + text))
            case 8:
                part = re.search(rb"<part .*?</part>", text, re.DOTALL)
                if part:
                    text = text.replace(part[0], part[0] * dice.choice((2, 100, 20_000)), 1)
            case _:
                text = text.replace(b"<image>", b"<image>" * dice.choice((2, 300)), 1)
    return text


def change_a_part(path: Path, dice: random.Random) -> None:
    """Make a part's file something else."""
    match dice.randrange(7):
        case 0:
            path.unlink()
        case 1:
            os.truncate(path, dice.choice((0, 1, 15, 16, path.stat().st_size - 1)))
        case 2:
            os.truncate(path, 1 << 40)
        case 3:
            path.unlink()
            os.mkfifo(path)
        case 4:
            path.unlink()
            path.symlink_to(dice.choice(("/dev/zero", "/dev/null", "nowhere", path.name)))
        case 5:
            path.unlink()
            path.mkdir()
        case _:
            path.write_bytes(dice.randbytes(path.stat().st_size))


def manifests(fuzz: Fuzz, count: int) -> None:
    """Verify, unbundle and copy bundles with a false manifest or part."""
    pair = ("--cert", str(fuzz.keys.user.certificate), "--private-key", str(fuzz.keys.user.key))
    for number in range(count):
        dice = fuzz.dice("manifest", number)
        here = fuzz.directory / "case"
        shutil.copytree(fuzz.directory / "bundles" / str(dice.randrange(len(FORMS))), here)
        path = here / "image.manifest.xml"
        if dice.random() < 0.3:
            change_a_part(dice.choice(sorted(here.glob("*.part.*"))), dice)
        else:
            path.write_bytes(a_manifest(path.read_bytes(), dice))
        image = here / "new.img"
        words = dice.choice(
            (
                ["verify", str(path)],
                ["verify", "--deep", str(path), *pair],
                ["unbundle", str(path), str(image), *pair],
                ["upload", str(path), "s3://bucket/x"],
                ["register", str(path)],
            )
        )
        status = command(fuzz, "manifest", number, words, new_commands.run)
        if status and (left := sorted(each.name for each in here.iterdir() if "new.img" in each.name)):
            fuzz.verdict.blame("manifest", number, words, f"{left} are left behind")
        shutil.rmtree(here)


# Command lines

JOB = "20261122-214500-5f3a9c"


def templates(fuzz: Fuzz, number: int) -> Sequence[Sequence[str]]:
    """A line of each command that does something, with places of its own."""
    pair = ("--cert", str(fuzz.keys.user.certificate), "--private-key", str(fuzz.keys.user.key))
    bundle = (
        "bundle",
        str(fuzz.image),
        *pair,
        "--ec2-cert",
        str(fuzz.keys.ec2.certificate),
        "--account",
        "123456789012",
    )
    path, new = str(fuzz.directory / "bundles/0/image.manifest.xml"), str(fuzz.directory / f"new-{number}")
    return (
        (*bundle, "--to", new, "--in-process", "--part-size", "64KiB", "--compress", "auto", "--workers", "1"),
        (*bundle, "--to", "s3://bucket/x", "--in-process", "--ami-name", "name", "--tag", "a=b", "-B", "ami=sda1"),
        (*bundle, "--to", new, "--to", new + "b", "--prefix", "web", "--json", "--sparse", "never", "--in-process"),
        *((name, "--in-process", "--json") for name in ("jobs", "clean", "doctor")),
        *((name, JOB, "--in-process") for name in ("status", "resume", "cancel", "clean")),
        *((name, JOB) for name in ("watch", "status", "resume", "cancel")),
        ("doctor", str(fuzz.image), "--to", "s3://bucket/x", *pair),
        ("verify", path, "--deep", *pair),
        ("unbundle", path, new, *pair, "--force"),
        ("download", "s3://bucket/x/image.manifest.xml", new),
        ("upload", path, "s3://bucket/x", "--acl", "public-read"),
        ("delete", "s3://bucket/x/image.manifest.xml", "--yes", "--no-ec2"),
        ("register", "s3://bucket/x/image.manifest.xml", "--ami-name", "name", "--ena"),
        ("deregister", "ami-12345678", "--delete", "--yes"),
        ("list", "s3://bucket/x", "--orphans", "--older-than", "30d", "--price", "0.023"),
        ("prune", "s3://bucket/x", "--keep-last", "1", "--older-than", "0h", "--by-folder", "--yes"),
        ("migrate", "s3://bucket/x/image.manifest.xml", "s3://other/x", "--region", "eu-west-1", *pair),
    )


def a_line(fuzz: Fuzz, dice: random.Random, number: int) -> list[str]:
    """A line with words changed, added or left out."""
    words = list(dice.choice(templates(fuzz, number)))
    options = [each for param in new_commands.load_command(words[0]).params for each in param.opts if each[0] == "-"]
    for _ in range(dice.randrange(4)):
        place = dice.randrange(1, len(words) + 1)
        more = dice.choice(([str(fuzz.odd(dice))], [dice.choice(options)], [dice.choice(options), str(fuzz.odd(dice))]))
        words[place : place + dice.randrange(3)] = dice.choice((more, more, []))
    return words


def an_old_line(fuzz: Fuzz, dice: random.Random) -> list[str]:
    letters = "bdhikmrpscuvaetBP"
    words = [dice.choice(sorted(known_names()))]
    return words + [
        dice.choice((f"-{dice.choice(letters)}", str(fuzz.odd(dice)), "--" + dice.choice(("url", "debug"))))
        for _ in range(dice.randrange(7))
    ]


def lines(fuzz: Fuzz, count: int) -> None:
    for number in range(count):
        dice = fuzz.dice("line", number)
        if dice.random() < 0.7:
            words = a_line(fuzz, dice, number)
            status = command(fuzz, "line", number, words, new_commands.run)
            # A job that failed may keep its parts.
            if status not in {EXIT_DONE, JobError.exit_status} and (
                left := list(fuzz.directory.glob(f"new-{number}*"))
            ):
                fuzz.verdict.blame("line", number, words, f"status {status}, and {left} is left behind")
        else:
            words = an_old_line(fuzz, dice)
            command(fuzz, "old line", number, words, lambda words: old_commands.run(words[0], words[1:]))


def command(fuzz: Fuzz, kind: str, number: int, words: list[str], run: Callable[[list[str]], int]) -> int:
    """Run a command in this process and judge its end; returns its status."""
    shown = io.StringIO()

    def stop(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST_S)
    try:
        with captured() as shown:
            status = run(words)
    except BaseException as error:  # noqa: BLE001 - the finding
        fuzz.verdict.blame(kind, number, words, f"raised {error!r}")
        return 1
    finally:
        signal.alarm(0)
    text = shown.getvalue()
    fuzz.verdict.answers[f"{kind} {status}"] += 1
    if BUGS.search(text) or (status == 1 and kind != "old line") or status not in range(131):
        fuzz.verdict.blame(kind, number, words, f"status {status}: {text[-3000:]}")
    return status


@contextlib.contextmanager
def captured() -> Iterator[io.StringIO]:
    """Give standard streams to a file; its text is there at the end."""
    shown = io.StringIO()
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in range(3)]
    with tempfile.TemporaryFile() as output, Path(os.devnull).open("rb") as nothing:
        try:
            for number, file in enumerate((nothing, output, output)):
                os.dup2(file.fileno(), number)
            yield shown
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, descriptor in enumerate(kept):
                os.dup2(descriptor, number)
                os.close(descriptor)
            output.seek(0)
            shown.write(output.read().decode(errors="replace"))


def fuzz_all(directory: Path, seed: int, count: int) -> Verdict:
    """All three kinds, in `directory`; temporary files are made there too."""
    temporary = directory / "tmp"
    temporary.mkdir()
    os.environ |= {f"AMISTREAM_{name.upper()}": str(value) for name, value in QUICK.items()}
    os.environ |= {"TMPDIR": str(temporary), "HOME": str(directory), "AMISTREAM_DEBUG": "1", "AWS_REGION": "us-east-1"}
    os.environ |= {"AMISTREAM_STATE_DIR": str(directory / "state"), "AMISTREAM_ENDPOINT_URL": NOWHERE}
    os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_EC2_METADATA_DISABLED": "true"}
    tempfile.tempdir = None
    os.chdir(directory)
    fuzz = Fuzz(directory, seed)
    requests(fuzz, count // 3)
    command(fuzz, "line", -1, ["--version"], new_commands.run)
    files, threads = open_files(os.getpid()), threading.active_count()
    manifests(fuzz, count // 3)
    lines(fuzz, count - 2 * (count // 3))
    verdict = fuzz.verdict
    # Not getrusage: its figure counts the process that started this one.
    if (peak := peak_rss(os.getpid())) > MOST_MEMORY:
        verdict.blame("all", count, "", f"the commands took {peak >> 20} MiB")
    # Modules open a few for good when they are first used; a leak would be one a command.
    if (now := open_files(os.getpid())) > files + OPENED_ONCE:
        verdict.blame("all", count, "", f"{now} files are open, and {files} were at first")
    if threading.active_count() > threads:
        verdict.blame("all", count, [each.name for each in threading.enumerate()], "threads are left")
    if left := sorted(temporary.rglob("*")):
        verdict.blame("all", count, left, "temporary files are left")
    return verdict


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="amistream-fuzz-") as directory:
        verdict = fuzz_all(Path(directory), options.seed, options.count)
        os.chdir("/")
    counts = dict(sorted(verdict.answers.items()))
    sys.stdout.write("\n".join([*verdict.wrong, str(counts), f"{len(verdict.wrong)} wrong", ""]))
    return 1 if verdict.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
