"""examples/fleet: the policies name what the code calls, the templates are valid, and the settings are known."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from amistream.aws.error_table import NEEDS
from amistream.aws.messaging_errors import MESSAGING_NEEDS
from amistream.settings import load

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "fleet"
POLICIES = ("submitter-policy.json", "worker-policy.json")
TEMPLATES = ("fleet.yaml", "batch.yaml")
ACTION = re.compile(r"[a-z0-9]+:[A-Z]\w+")
CALLED = {*ACTION.findall(" ".join(NEEDS.values()))}
"""The actions of all requests that the code sends."""


Template: Any = type("Template", (yaml.SafeLoader,), {})
"""Reads a template's functions, such as `!Ref Jobs`, as their arguments."""


def _argument(loader: Any, _: str, node: Any) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node)
    return loader.construct_sequence(node)


Template.add_multi_constructor("!", _argument)


def template(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.load((EXAMPLES / name).read_text(), Template)  # noqa: S506 - a safe loader
    resources: dict[str, Any] = found["Resources"]
    return resources


def actions(policy: dict[str, Any]) -> list[str]:
    given = [statement["Action"] for statement in policy["Statement"]]
    return [action for each in given for action in ([each] if isinstance(each, str) else each)]


def policy_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((EXAMPLES / name).read_text())
    return found


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_is_one(name: str) -> None:
    """A policy has the version and the statements of IAM, and allows on named resources what the code calls."""
    policy = policy_of(name)
    assert {*policy} == {"Version", "Statement"}
    assert policy["Version"] == "2012-10-17"
    for statement in policy["Statement"]:
        assert {*statement} == {"Sid", "Effect", "Action", "Resource"}
        assert (statement["Effect"], statement["Sid"].isalnum()) == ("Allow", True)
    # A tag of AMI and snapshot is set by another request's permission.
    assert {*actions(policy)} - CALLED == set()


def test_the_policies_are_enough() -> None:
    """Each request to a queue, bus or topic is allowed to the one who sends it, and a worker may run every job."""
    submitter, worker = ({*actions(policy_of(name))} for name in POLICIES)
    assert {*ACTION.findall(" ".join(MESSAGING_NEEDS.values()))} == {
        action for action in submitter | worker if action.startswith(("sqs:", "sns:", "events:"))
    }
    found = re.search(r"```json\n(.*?)```", (ROOT / "docs" / "permissions.md").read_text(), re.DOTALL)
    assert found
    assert {*actions(json.loads(found[1]))} - worker == set()


def test_the_role_of_the_template_is_the_workers() -> None:
    """The role of the hosts in the template may do what the worker's policy allows, but for buses and topics."""
    [policy] = template("fleet.yaml")["WorkerRole"]["Properties"]["Policies"]
    of_file = {each for each in actions(policy_of("worker-policy.json")) if not each.startswith(("sns:", "events:"))}
    assert {*actions(policy["PolicyDocument"])} == of_file


def test_the_templates_are_valid() -> None:
    """cfn-lint, which knows the schema of every resource, finds nothing."""
    program = Path(sys.executable).with_name("cfn-lint")
    argv = [str(program), "--regions", "eu-west-1", "--", *(str(EXAMPLES / name) for name in TEMPLATES)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_the_settings_of_the_hosts(tmp_path: Path) -> None:
    """The settings that a host of the template writes at its start are known and valid, and name its queues."""
    data = template("fleet.yaml")["WorkerTemplate"]["Properties"]["LaunchTemplateData"]["UserData"]["Fn::Base64"]
    script = str(data)
    found = re.search(r"<<'TOML'\n(.*?)^TOML$", script, re.DOTALL | re.MULTILINE)
    assert found
    values = {
        "AWS::Region": "eu-west-1",
        "JobsPerHost": "2",
        "Bucket": "bundles",
        "Jobs": "https://sqs.eu-west-1.amazonaws.com/123456789012/jobs",
        "Results": "https://sqs.eu-west-1.amazonaws.com/123456789012/results",
    }
    text = re.sub(r"\$\{([\w:]+)\}", lambda name: values[name[1]], found[1])
    (tmp_path / "amistream.toml").write_text(text)
    settings = load(tmp_path / "amistream.toml")
    assert (settings.queue_url, settings.results) == (values["Jobs"], f"sqs:{values['Results']}")
    assert settings.queue_watch_notices
    hook = template("fleet.yaml")["Workers"]["Properties"]["LifecycleHookSpecificationList"][0]
    assert hook["HeartbeatTimeout"] > settings.queue_drain_s
    subprocess.run(["sh", "-n"], input=re.sub(r"\$\{[\w:]+\}", "x", script), text=True, check=True)


def test_the_drop_in_sets_settings() -> None:
    """Every variable of the drop-in is that of a setting."""
    variables = re.findall(r"^Environment=AMISTREAM_(\w+)=", (EXAMPLES / "queue.conf").read_text(), re.MULTILINE)
    assert len(variables) > 2
    assert {name.lower() for name in variables} <= {*type(load()).model_fields}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_drop_in_fits_the_unit(tmp_path: Path) -> None:
    """`systemd-analyze verify` finds no fault in the unit with the drop-in."""
    for unit in ("amistream.service", "amistream.socket"):
        text = (ROOT / "config" / unit).read_text()
        (tmp_path / unit).write_text(re.sub(r"^ExecStart=.*", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    drop_ins = tmp_path / "amistream.service.d"
    drop_ins.mkdir()
    shutil.copy(EXAMPLES / "queue.conf", drop_ins)
    argv = ["systemd-analyze", "verify", str(tmp_path / "amistream.service")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


PROGRAM = """\
#!{python}
import json, os, sys
if sys.argv[1] == "list":
    assert sys.argv[2:] == ["s3://bundles/web", "--no-ec2", "--json"]
    print(json.dumps({{"bundles": [{{"manifest": f"s3://bundles/web {{n}}.manifest.xml"}} for n in range(7)]}}))
else:
    with open(os.environ["VERIFIED"], "a") as log:
        print(sys.argv[2], file=log)
    sys.exit(5 if "web 4" in sys.argv[2] else 0)
"""


def test_the_children_of_the_array_divide_the_bundles(tmp_path: Path) -> None:
    """Each bundle is verified by one child of the array job, and the child that found a difference reports it."""
    container = template("batch.yaml")["Verify"]["Properties"]["ContainerProperties"]
    *command, address = container["Command"]
    assert (command[:2], address) == (["python3", "-c"], "Ref::address")
    program = tmp_path / "amistream"
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    verified = tmp_path / "verified"
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "VERIFIED": str(verified)}
    statuses = []
    for index in range(3):
        own = {"AWS_BATCH_JOB_ARRAY_INDEX": str(index), "AWS_BATCH_JOB_ARRAY_SIZE": "3"}
        argv = [sys.executable, "-c", textwrap.dedent(command[2]), "s3://bundles/web"]
        statuses.append(subprocess.run(argv, env={**environ, **own}, check=False).returncode)
    assert statuses == [0, 5, 0]
    assert sorted(verified.read_text().splitlines()) == [f"s3://bundles/web {n}.manifest.xml" for n in range(7)]
