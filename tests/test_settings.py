"""Settings: who wins over whom, and errors that name the place at fault."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from amistream.errors import UsageError
from amistream.settings import (
    PROCESS_BASELINE,
    Acl,
    OnStop,
    Settings,
    conversion_ceiling,
    default_state_dir,
    load,
    memory_ceiling,
    puts_within,
)
from amistream.values import GIB, KIB, MIB


def write(folder: Path, text: str) -> Path:
    path = folder / "amistream.toml"
    path.write_text(text)
    return path


def fails(config: Path | None, **overrides: object) -> UsageError:
    with pytest.raises(UsageError) as caught:
        load(config, **overrides)
    return caught.value


def test_defaults(tmp_path: Path) -> None:
    """An empty file means the defaults that the AMI tools and AWS's limits give."""
    settings = load(write(tmp_path, ""))
    assert settings == Settings()
    assert (settings.prefix, settings.part_size, settings.max_image_size) == ("image", 10_485_760, 10 * GIB)
    assert (settings.acl, settings.on_stop) == (Acl.AWS_EXEC_READ, OnStop.FINISH)


def test_file_over_default(tmp_path: Path) -> None:
    """Values of the file replace the defaults; settings that it lacks keep theirs."""
    settings = load(write(tmp_path, 'prefix = "disk"\nmax_jobs = 3\n[ec2_certificates]\neu-west-1 = "/a.pem"\n'))
    assert (settings.prefix, settings.max_jobs, settings.max_queued) == ("disk", 3, 100)
    assert settings.ec2_certificates == {"eu-west-1": Path("/a.pem")}


def test_environment_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable goes over the file."""
    monkeypatch.setenv("AMISTREAM_PREFIX", "variable")
    monkeypatch.setenv("AMISTREAM_EC2_CERTIFICATES", '{"default": "/b.pem"}')
    settings = load(write(tmp_path, 'prefix = "file"\naccount = "1"\n'))
    assert (settings.prefix, settings.account) == ("variable", "1")
    assert settings.ec2_certificates == {"default": Path("/b.pem")}


def test_argument_over_file(tmp_path: Path) -> None:
    """An argument goes over the file, and is understood as the file's values are."""
    settings = load(write(tmp_path, 'prefix = "file"\naccount = "1"\n'), prefix="argument", part_size="64KiB")
    assert (settings.prefix, settings.part_size, settings.account) == ("argument", 64 * KIB, "1")


def test_argument_over_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument goes over a variable too."""
    monkeypatch.setenv("AMISTREAM_PREFIX", "variable")
    monkeypatch.setenv("AMISTREAM_ACCOUNT", "2")
    settings = load(write(tmp_path, 'prefix = "file"\n'), prefix="argument")
    assert (settings.prefix, settings.account) == ("argument", "2")


def test_absent_argument(tmp_path: Path) -> None:
    """An argument that was not given (None) changes nothing."""
    assert load(write(tmp_path, 'prefix = "file"\n'), prefix=None, workers=None).prefix == "file"


def test_file_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AMISTREAM_CONFIG names the file, unless an argument does."""
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("AMISTREAM_CONFIG", str(write(tmp_path, 'prefix = "variable"\n')))
    assert load().prefix == "variable"
    assert load(write(tmp_path / "other", 'prefix = "argument"\n')).prefix == "argument"


def test_frozen() -> None:
    """Settings do not change once they are made."""
    with pytest.raises(ValidationError, match="frozen"):
        Settings().prefix = "other"  # type: ignore[misc]


def test_missing_file(tmp_path: Path) -> None:
    """A file that was named and is not there is an error."""
    error = fails(tmp_path / "none.toml")
    assert error.code == "settings.unreadable"
    assert error.message == f"cannot read the configuration {tmp_path}/none.toml: No such file or directory"


def test_directory_as_file(tmp_path: Path) -> None:
    """A directory named as the file is an error with the reason."""
    assert fails(tmp_path).message == f"cannot read the configuration {tmp_path}: Is a directory"


@pytest.mark.parametrize("content", [b"prefix = ", b"\xff\xfe", b"prefix = 1\nprefix = 2"])
def test_bad_syntax(content: bytes, tmp_path: Path) -> None:
    """A file that is no TOML is an error that names it."""
    path = tmp_path / "amistream.toml"
    path.write_bytes(content)
    error = fails(path)
    assert (error.code, error.field) == ("settings.syntax", "config")
    assert error.message.startswith(f"cannot read the configuration {path}: ")


@pytest.mark.parametrize(
    ("line", "name", "why"),
    [
        ("max_jobs = 0", "max_jobs", "greater than 0"),
        ('max_jobs = "many"', "max_jobs", "valid integer"),
        ('part_size = "10"', "part_size", "a part is 16KiB to 5GiB and a whole number of KiB"),
        ('part_size = "16385"', "part_size", "a whole number of KiB"),
        ('part_size = "6GiB"', "part_size", "16KiB to 5GiB"),
        ('part_size = "10 parsecs"', "part_size", "'10 parsecs' is not a size: write bytes, or a number with a unit"),
        ('block_size = "1KiB"', "block_size", "greater than or equal to 65536"),
        ("upload_concurrency = 65", "upload_concurrency", "less than or equal to 64"),
        ('compress = "best"', "compress", "match pattern"),
        ('acl = "bucket-owner-read"', "acl", "aws-exec-read"),
        ("backoff_base_s = 0", "backoff_base_s", "greater than 0"),
        ('prefx = "typo"', "prefx", "no such setting"),
        ('on_failure = "say \'no"', "on_failure", "is not a command: No closing quotation"),
        ('metrics_textfile = "/run/a.txt"', "metrics_textfile", "an absolute path that ends with .prom"),
        ("[ec2_certificates]\nx = 5", "ec2_certificates", "path"),
    ],
)
def test_bad_value_in_the_file(line: str, name: str, why: str, tmp_path: Path) -> None:
    """A bad value or an unknown name in the file is an error that names the setting, the file and what is wrong."""
    path = write(tmp_path, line)
    error = fails(path)
    assert (error.code, error.field) == ("settings.invalid", name)
    assert error.message.startswith(f"cannot use the setting {name} (from {path}): ")
    assert why in error.message


def test_every_fault_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All faults of the file and of the variables are reported together, the first one as the message."""
    monkeypatch.setenv("AMISTREAM_MAX_QUEUED", "none")
    path = write(tmp_path, 'max_jobs = 0\nprefx = "typo"\npart_size = "10"')
    error = fails(path)
    told = [error.message, *error.hint.splitlines()[1:]]
    assert error.field in error.message
    for fault in (
        f"the setting max_jobs (from {path}): ",
        "the setting max_queued (from AMISTREAM_MAX_QUEUED): ",
        f"the setting prefx (from {path}): there is no such setting; is prefix meant?",
        f"the setting part_size (from {path}): a part is 16KiB",
    ):
        assert sum(fault in line for line in told) == 1, (fault, told)
    assert len(told) == 4


def test_a_misspelt_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that no setting has is an error, as in the file; what container platforms set is none."""
    for name in ("AMISTREAM_DEBUG", "AMISTREAM_SERVICE_HOST", "AMISTREAM_PORT", "AMISTREAM_PORT_80_TCP_ADDR"):
        monkeypatch.setenv(name, "1")
    path = write(tmp_path, "")
    load(path)
    monkeypatch.setenv("AMISTREAM_PART_SIZ", "20MiB")
    error = fails(path)
    assert (error.code, error.field) == ("settings.invalid", "part_siz")
    assert error.message.endswith("part_siz (from AMISTREAM_PART_SIZ): there is no such setting; is part_size meant?")


def test_bad_value_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad value in a variable is an error that names the variable, not the file."""
    monkeypatch.setenv("AMISTREAM_MAX_JOBS", "0")
    error = fails(write(tmp_path, "max_jobs = 1"))
    assert error.message.startswith("cannot use the setting max_jobs (from AMISTREAM_MAX_JOBS): ")


def test_bad_structure_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that should hold JSON and does not is an error that names the variable."""
    monkeypatch.setenv("AMISTREAM_EC2_CERTIFICATES", "/a.pem")
    assert "AMISTREAM_EC2_CERTIFICATES" in fails(write(tmp_path, "")).message


def test_bad_argument(tmp_path: Path) -> None:
    """A bad argument is an error that blames neither the file nor a variable."""
    path = write(tmp_path, "")
    error = fails(path, max_jobs=0)
    assert (error.code, error.field) == ("settings.invalid", "max_jobs")
    assert str(path) not in error.message


@pytest.mark.parametrize(
    ("text", "size"),
    [("16KiB", 16 * KIB), ("10MiB", 10 * MIB), ("1.5MiB", 3 * MIB // 2), ("5GiB", 5 * GIB), ("16384", 16 * KIB)],
)
def test_sizes(text: str, size: int, tmp_path: Path) -> None:
    """Sizes are written in bytes or with a binary unit."""
    assert load(write(tmp_path, f'part_size = "{text}"')).part_size == size


def test_workers(tmp_path: Path) -> None:
    """Without a number of workers there is one for each core that may be used."""
    assert Settings().worker_count() == len(os.sched_getaffinity(0))
    assert load(write(tmp_path, "workers = 7")).worker_count() == 7


def test_memory_ceiling() -> None:
    """The ceiling grows by three blocks and a slice of ciphertext a worker, and by a part for each upload and two."""
    none = memory_ceiling(workers=0, block_size=0, part_size=0, upload_concurrency=0)
    assert none == PROCESS_BASELINE
    full = memory_ceiling(workers=4, block_size=2 * MIB, part_size=10 * MIB, upload_concurrency=6)
    assert full - PROCESS_BASELINE == 4 * (6 * MIB + 128 * KIB) + 80 * MIB


def test_state_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """State is kept in the system's directory for root, and below the home directory for everyone else."""
    from source.nobody import as_nobody

    if os.geteuid() == 0:
        assert default_state_dir() == Path("/var/lib/amistream")
    with as_nobody():
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        assert default_state_dir() == tmp_path / "amistream"
        monkeypatch.delenv("XDG_STATE_HOME")
        monkeypatch.setenv("HOME", "/home/someone")
        assert default_state_dir() == Path("/home/someone/.local/state/amistream")


def test_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Roots stand in the file as a list and in a variable as in PATH; there are none by default."""
    assert Settings().source_roots == ()
    file = tmp_path / "a.toml"
    file.write_text('source_roots = ["/srv/images", "/dev/dm-3"]')
    assert load(file).source_roots == (Path("/srv/images"), Path("/dev/dm-3"))
    monkeypatch.setenv("AMISTREAM_SOURCE_ROOTS", "/a:/b/c/")
    assert load(file).source_roots == (Path("/a"), Path("/b/c"))
    monkeypatch.setenv("AMISTREAM_SOURCE_ROOTS", "")
    assert load(file).source_roots == ()


@pytest.mark.parametrize("root", ["srv/images", "/srv/../etc", "~/images"])
def test_a_root_is_a_real_path(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative root, or one with steps back, is refused by name."""
    monkeypatch.setenv("AMISTREAM_SOURCE_ROOTS", f"/srv:{root}")
    with pytest.raises(UsageError, match="is not an absolute path without") as caught:
        load()
    assert root in caught.value.message
    assert caught.value.field == "source_roots"


def test_conversion_ceiling() -> None:
    """The ceiling of conversions grows by 768 KiB for each put, 4 MiB for each worker and two, and by bundles."""
    assert conversion_ceiling(workers=2, puts=64) == PROCESS_BASELINE + 12 * MIB + 48 * MIB + 4 * 4 * MIB
    assert conversion_ceiling(workers=4, puts=8, jobs=3) == PROCESS_BASELINE + 12 * MIB + 3 * (6 * MIB + 6 * 4 * MIB)
    bundle = conversion_ceiling(workers=2, puts=64, unpacks=True)
    assert bundle == conversion_ceiling(workers=2, puts=64) + 3 * 14 * MIB < 250 * MIB
    assert puts_within(bundle, workers=2, unpacks=True) == 64
    assert puts_within(bundle - 1, workers=2, unpacks=True) == 63
    assert puts_within(PROCESS_BASELINE, workers=1) < 1
