"""The .deb under systemd as PID 1, in one boot of a Debian: `make boot-test`.

That starts a container; `-m boot` starts a machine, too. The log has the time of each command.
"""

from __future__ import annotations

import json
import logging
import re
import shlex
from typing import TYPE_CHECKING, Any

import pytest

from boot.debian_host import LOOPBACK, Host, debian_host
from config.dist.project import ROOT
from dist.running import NEXT, made, next_version
from support.buckets import list_keys
from support.volumes import MIB, ext4_image, random_image

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import MakeBucket
    from support.endpoints import Endpoint
    from support.keys import KeyRing

LOG = logging.getLogger(__name__)
pytestmark = pytest.mark.boot
UNITS = "etc/systemd/system"
RUNS = "systemctl is-active --quiet amistream.service"
WORST_EXPOSURE = 3.0
CAPABILITIES = "0000000000000005"
"""CAP_CHOWN and CAP_DAC_READ_SEARCH."""
LARGE = ("/opt", "/srv", "/var", "/usr/bin", "/usr/sbin", "/usr/share", "/usr/lib/x86_64-linux-gnu")
SMALL_ROOT = " ".join(f"--exclude {path}" for path in LARGE)
"""Options of a bundle of / that takes seconds."""
JOB = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")
WRITING = """\
[Service]
ReadWritePaths=/srv/bundles
CapabilityBoundingSet=CAP_SYS_ADMIN CAP_IPC_LOCK
"""


class Installed:
    """The installed package, and the words that its commands get."""

    def __init__(self, host: Host, bucket: str) -> None:
        self.host = host
        self._to = f"s3://{bucket}"

    def bundle(self, source: str, to: str, *options: str, member: bool = False, status: int = 0) -> str:
        """Bundle as root or as a member of the group; `to` is a directory, or a name in the bucket."""
        place = to if to.startswith("/") else f"{self._to}/{to}"
        words = ("amistream", "bundle", source, "--to", place, "--no-register", "-q", *options)
        return self.host.run("runuser -u member -- " * member + " ".join(words), status=status)

    def begin(self, source: str, to: str) -> str:
        """Submit a job of small parts, and return its id."""
        words = f"--to {self._to}/{to} --no-register --part-size 256KiB --detach"
        found = JOB.search(self.host.run(f"runuser -u member -- amistream bundle {source} {words}"))
        assert found
        return found[0]

    def job(self, job: str) -> dict[str, Any]:
        """The job as the daemon has it."""
        shown: dict[str, Any] = json.loads(self.host.run(f"amistream status {job} --json"))
        return shown

    def unit(self, *names: str) -> list[str]:
        """Properties of the service, in the order of their names."""
        lines = self.host.run(f"systemctl show amistream.service -p {','.join(names)}").splitlines()
        values = dict(line.split("=", 1) for line in lines)
        return [values[name] for name in names]

    def set(self, name: str, value: str) -> None:
        """Change a setting of the configuration."""
        path = "/etc/amistream/amistream.toml"
        self.host.run(f"sed -i '/^{name} = /d' {path}; echo {shlex.quote(f'{name} = {value}')} >>{path}")


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("container", marks=pytest.mark.timeout(3600)),
        pytest.param("machine", marks=[pytest.mark.slow, pytest.mark.timeout(4 * 3600)]),
    ],
)
def test_life_under_systemd(  # noqa: PLR0915 - one boot for all checks, because it takes minutes
    kind: str,
    tmp_path: Path,
    ministack: Endpoint,
    make_bucket: MakeBucket,
    key_ring: KeyRing,
    subtests: pytest.Subtests,
) -> None:
    """The package is installed, works within its unit, is killed, restarted, upgraded and purged."""
    bucket = make_bucket(ministack)
    url = ministack.url.replace("127.0.0.1", LOOPBACK[kind])
    environ = {**ministack.environ(), "AWS_ENDPOINT_URL": url, "AWS_EC2_METADATA_DISABLED": "true"}
    variables = " ".join(f"{name}={value}" for name, value in environ.items())
    with_variables = f"[Service]\nEnvironment={variables}\n".encode()
    files: dict[str, bytes | Path] = {
        "root/amistream.deb": made(".deb"),
        "root/next.deb": next_version(tmp_path),
        "etc/ec2/amitools/cert-ec2.pem": key_ring.ec2.certificate,
        "srv/images/volume.img": ext4_image(tmp_path / "volume.img", 4 * MIB),
        "srv/images/long.img": random_image(tmp_path / "long.img", 24 * MIB),
        "srv/images/tree/file": b"content\n",
        f"{UNITS}/amistream.service.d/aws.conf": with_variables,
        f"{UNITS}/amistream-nightly.service.d/aws.conf": with_variables,
    }
    for path in (ROOT / "examples/systemd").iterdir():
        text = path.read_text().replace("s3://my-bucket", f"s3://{bucket}")
        files[f"{UNITS}/{path.name}"] = text.replace("bundle / ", f"bundle / {SMALL_ROOT} ").encode()

    with debian_host(kind, tmp_path / "host", files, ext4_image(tmp_path / "data.img", 8 * MIB)) as host:
        installed = Installed(host, bucket)

        # Nothing works without these.
        host.run("dpkg -i /root/amistream.deb && rm /root/amistream.deb")
        assert host.run("systemctl is-enabled amistream.socket amistream.service", status=1).split() == ["disabled"] * 2
        host.run("systemctl enable --now amistream.socket")
        made_by_init = (
            f"amistream init --group amistream --bucket s3://{bucket} --endpoint-url {url} --region eu-west-1"
        )
        assert "made          the configuration" in host.run(f"{variables} {made_by_init}")
        installed.set("account", '"123456789012"')
        installed.set("ec2_certificates", '{ default = "/etc/ec2/amitools/cert-ec2.pem" }')
        installed.set("source_roots", '["/srv/images"]')
        host.run("systemctl daemon-reload && systemctl restart amistream.socket && useradd -m -G amistream member")
        assert host.run("stat -c '%a %G' /run/amistream/amistream.sock").split() == ["660", "amistream"]

        with subtests.test("start by the socket, within the unit"):
            assert installed.unit("ActiveState") == ["inactive"]
            host.run("runuser -u member -- amistream jobs")
            host.wait_until(RUNS)
            state, status, pid = installed.unit("ActiveState", "StatusText", "MainPID")
            assert (state, "on /run/amistream/amistream.sock" in status) == ("active", True)
            process = host.run(f"cat /proc/{pid}/status")
            for name, value in {
                "CapEff": CAPABILITIES,
                "CapBnd": CAPABILITIES,
                "NoNewPrivs": "1",
                "Seccomp": "2",
            }.items():
                assert re.search(rf"^{name}:\s+{value}$", process, re.MULTILINE), name
            exposure = host.run("systemd-analyze security amistream.service --no-pager | tail -1")
            LOG.info(exposure.strip())
            (level,) = re.findall(r": (\d\.\d) ", exposure)
            assert float(level) <= WORST_EXPOSURE

        with subtests.test("jobs of a member and of root"):
            installed.bundle("/srv/images/volume.img", "image", member=True)
            installed.bundle("/srv/images/tree", "tree", member=True)
            installed.bundle("/dev/vdb", "device")
            assert "source_roots" in installed.bundle("/dev/vdb", "no", member=True, status=3)

        with subtests.test("a bundle of /"):
            report = "/var/lib/amistream/report"
            installed.bundle("/", "root", SMALL_ROOT, "--report", report)
            seen = [json.loads(line) for line in host.run(f"cat {report}").splitlines()]
            left_out = {each["path"] for each in seen if each["fate"] == "left out"}
            assert left_out >= {*LARGE, "/dev", "/proc", "/run", "/sys"}
            assert not [path for path in left_out if path.startswith(("/usr/lib/modules", "/home", "/root", "/etc"))]

        with subtests.test("a directory, and a frozen file system, once the unit allows them"):
            refused = installed.bundle("/srv/images/tree", "/srv/bundles/tree", status=3)
            assert "ReadWritePaths=/srv/bundles/tree" in refused
            host.run(f"mkdir /srv/bundles; cat >/{UNITS}/amistream.service.d/writing.conf <<'END'\n{WRITING}END")
            host.run("systemctl daemon-reload && systemctl restart amistream.service && mount /dev/vdb /mnt")
            installed.bundle("/srv/images/tree", "/srv/bundles/tree")
            installed.bundle("/dev/vdb", "/srv/bundles/frozen", "--freeze")
            assert host.run("ls /srv/bundles/*").split().count("image.manifest.xml") == 2
            host.run("touch /mnt/thawed && umount /mnt")

        with subtests.test("lines and priorities of the journal"):
            lines = [json.loads(line) for line in host.run("journalctl -u amistream.service -o json").splitlines()]
            own = [
                (json.loads(line["MESSAGE"]), line["PRIORITY"])
                for line in lines
                if line["SYSLOG_IDENTIFIER"] == "amistreamd"
            ]
            priorities = {"debug": "7", "info": "6", "warning": "4", "error": "3"}
            assert [each for each, priority in own if priority != priorities[each["level"]]] == []
            assert {each["event"] for each, _ in own} >= {"daemon.ready", "job.submitted", "job.end", "daemon.stopping"}
            assert "roots.outside" in host.run("journalctl -u amistream.service -p warning -o cat")

        installed.set("on_stop", '"interrupt"')
        # It still has something to send after all that follows, unless that takes 12 minutes.
        installed.set("limit_upload", '"32KiB"')
        installed.set("upload_concurrency", "1")
        host.run("systemctl restart amistream.service")
        job = installed.begin("/srv/images/long.img", "long")

        with subtests.test("a killed daemon is started again, and the job goes on"):
            host.wait_until(f"amistream status {job} --json | grep -Eq '\"parts_stored\": *[1-9]'")
            assert list_keys(ministack, bucket, "long/")
            host.run("systemctl kill --kill-whom=main --signal=KILL amistream.service")
            # The death is noticed a moment later.
            host.wait_until("systemctl show amistream.service -p NRestarts | grep -q =1")
            host.wait_until(RUNS)
            assert installed.job(job)["state"] in {"queued", "checking", "bundling"}

        with subtests.test("restarts and a stop"):
            host.run("systemctl restart amistream.service")
            host.run("systemctl restart amistream.socket amistream.service")
            assert host.run("systemctl is-active amistream.socket amistream.service").split() == ["active"] * 2
            host.run("systemctl stop amistream.service")
            assert installed.unit("Result", "ActiveState") == ["success", "inactive"]
            assert installed.job(job)["state"] in {"queued", "checking", "bundling"}

        with subtests.test("an upgrade"):
            # systemd refuses the sixth start within ten seconds.
            host.run("systemctl reset-failed amistream.service")
            host.run("dpkg -i /root/next.deb && rm /root/next.deb")
            assert host.run("amistream --version").strip() == f"amistream {NEXT}"
            assert host.run("systemctl is-active amistream.socket amistream.service").split() == ["active"] * 2
            assert installed.job(job)["state"] in {"queued", "checking", "bundling"}
            host.wait_until("systemctl show amistream.service -p StatusText | grep -q '1 running: long'")
            installed.set("limit_upload", '"1GiB"')
            host.run("systemctl restart amistream.service")
            host.run(f"amistream watch {job}")
            host.run(f"{variables} amistream verify --deep s3://{bucket}/long/image.manifest.xml")

        with subtests.test("the timer"):
            host.run("systemctl enable --now amistream-nightly.timer && systemctl start amistream-nightly.service")
            assert host.run("systemctl show amistream-nightly.service -p Result").strip() == "Result=success"
            assert [key for key in list_keys(ministack, bucket, "host/") if key.endswith("image.manifest.xml")]

        with subtests.test("purge"):
            host.run("echo key >/etc/amistream/own.pem && mkdir /var/lib/amistream/bundle")
            purged = host.run("dpkg --purge amistream")
            for left in ("/etc/amistream stays", "/var/lib/amistream stays"):
                assert left in purged
            assert host.run("ls /etc/amistream").split() == ["own.pem"]
            assert host.run("ls /var/lib/amistream").split() == [
                "bundle",
                "report",
                "user-certificate.pem",
                "user-private-key.pem",
            ]
            assert host.run("systemctl list-units --all --no-legend 'amistream.*'") == ""
            assert (
                host.run("ls -d /opt/amistream /run/amistream /usr/bin/amistream*", status=2).count("No such file") == 3
            )
            assert host.run("systemctl --failed --no-legend --plain") == ""
