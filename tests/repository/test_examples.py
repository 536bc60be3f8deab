"""examples/: each begins with what it does and what to change, and its commands have their options.

`make examples-test` has each one checked by its own tool, too.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from amistream.cli.main import load_command

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
FILES = sorted(path for path in EXAMPLES.rglob("*") if path.is_file() and path.parent.name != "fleet")
CALL = re.compile(r"\bamistream ((?:bundle|doctor|prune|list) [^)\n]*)")
CLOUD_CONFIG = "schema-cloud-config-v1.json"


def calls() -> Iterator[tuple[str, list[str]]]:
    """The words of each call of amistream, by the file it is in."""
    for path in FILES:
        text = path.read_text()
        code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
        if path.suffix == ".hcl":
            code = re.sub(r'",\n\s*"', " ", code)
        # Values of variables have no spaces.
        code = re.sub(r"\\\n|\$\{\{.*?\}\}|\{\{.*?\}\}|\$\w+|\$\{.*?\}|\$\(.*?\)", lambda found: _plain(found[0]), code)
        for call in CALL.findall(code):
            yield path.name, shlex.split(re.split(r" [>&2]|\"[,\]]|'$", call)[0])
    yield from ansible_calls()


def _plain(found: str) -> str:
    return " " if found.startswith("\\") else "3"


def ansible_calls() -> Iterator[tuple[str, list[str]]]:
    [play] = yaml.safe_load((EXAMPLES / "ansible" / "bundle.yml").read_text())
    tasks = [each for task in play["tasks"] for each in task.get("block", [task])]
    options = play["vars"]["options"]
    for task in tasks:
        argv: Any = task.get("ansible.builtin.command", {}).get("argv", [])
        if isinstance(argv, str):
            argv = [*yaml.safe_load(argv.strip("{} ").split(" + ")[0]), *options]
        if argv:
            yield "bundle.yml", [re.sub(r"\{\{.*?\}\}", "3", word) for word in argv[1:]]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_example_begins_with_its_purpose(path: Path) -> None:
    """An example begins with a comment, which says what to change; tests of an example begin with their command."""
    comment = re.match(r"(?:#.*\n)+", path.read_text())
    assert comment
    assert ("To change:" in comment[0]) != path.stem.endswith("-test")


def test_the_commands_of_the_examples() -> None:
    """Every call of amistream in an example is a command with its options."""
    found = [*calls()]
    files = {"amistream.pkr.hcl", "amistream-nightly.service", "bundle.yml", "user-data.yaml"}
    assert {name for name, _ in found} == files
    assert len(found) == 10
    for name, (command, *words) in found:
        load_command(command).make_context(f"{name}: {command}", words)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_timer_and_its_service(tmp_path: Path) -> None:
    """`systemd-analyze verify` finds no fault in the nightly timer and its service."""
    units = [tmp_path / f"amistream-nightly.{kind}" for kind in ("service", "timer")]
    for unit in units:
        text = (EXAMPLES / "systemd" / unit.name).read_text()
        unit.write_text(text.replace("/usr/bin/amistream", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", *map(str, units)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def check(*argv: str | Path, folder: Path = EXAMPLES) -> None:
    """Run a tool, which must be content. The test is skipped where the tool is not installed."""
    if shutil.which(argv[0]) is None:
        pytest.skip(f"{argv[0]} is not installed")
    done = subprocess.run([*map(str, argv)], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.examples
def test_prometheus() -> None:
    """Promtool takes the alerts, and their tests pass."""
    check("promtool", "check", "rules", "prometheus/alerts.yaml")
    check("promtool", "test", "rules", "prometheus/alerts-test.yaml")


@pytest.mark.examples
def test_packer(tmp_path: Path) -> None:
    """Packer takes the template, without the block that the packaged version does not know, and its form."""
    check("packer", "fmt", "-check", "packer/amistream.pkr.hcl")
    text = (EXAMPLES / "packer" / "amistream.pkr.hcl").read_text()
    (tmp_path / "a.pkr.hcl").write_text(re.sub(r"^packer \{.*?^\}$", "", text, flags=re.MULTILINE | re.DOTALL))
    for name in ("cert.pem", "pk.pem", "amistream.deb"):
        (tmp_path / name).touch()
    given = {
        "account_id": "111122223333",
        "bucket": "b",
        "source_ami": "ami-0123456789abcdef0",
        "instance_profile": "p",
    }
    words = [word for name, value in given.items() for word in ("-var", f"{name}={value}")]
    check("packer", "validate", *words, "a.pkr.hcl", folder=tmp_path)


@pytest.mark.examples
def test_github_actions() -> None:
    """The workflow has the form of one, and its scripts that of the shell."""
    check("check-jsonschema", "--builtin-schema", "vendor.github-workflows", "github-actions/bundle.yml")
    workflow = yaml.safe_load((EXAMPLES / "github-actions" / "bundle.yml").read_text())
    for step in workflow["jobs"]["bundle"]["steps"]:
        subprocess.run(["bash", "-n"], input=step.get("run", "").replace("${{", "").encode(), check=True)


@pytest.mark.examples
def test_cloud_init() -> None:
    """The user data has the form that cloud-init's own schema gives it."""
    [*schemas] = (ROOT / ".venv-examples").rglob(CLOUD_CONFIG)
    if not schemas:
        pytest.skip("the schema of cloud-init is not there")
    check("check-jsonschema", "--schemafile", schemas[0], "cloud-init/user-data.yaml")
    script = yaml.safe_load((EXAMPLES / "cloud-init" / "user-data.yaml").read_text())["write_files"][1]["content"]
    subprocess.run(["sh", "-n"], input=script.encode(), check=True)


@pytest.mark.examples
def test_ansible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ansible takes the playbook."""
    monkeypatch.setenv("ANSIBLE_HOME", str(tmp_path))
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    check("ansible-playbook", "--syntax-check", "-i", "web,", "ansible/bundle.yml")
    options = "{extends: default, rules: {line-length: {max: 125}, document-start: disable, comments: disable}}"
    check("yamllint", "-d", options, "ansible", "cloud-init")
