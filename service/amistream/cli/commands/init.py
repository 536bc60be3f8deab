"""The command `init`: sets up what a first job needs, and checks it."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amistream.cli.commands.doctor import find, findings_text, paint_finding, status_of
from amistream.cli.options import JsonOption
from amistream.cli.output import put_result
from amistream.errors import RefusedError, UsageError
from amistream.process import DEFAULT_CONFIG

if TYPE_CHECKING:
    from amistream.checks.findings import Finding
    from amistream.cli.set_up import Step

_ROOT = Path("/")
_SYSTEM_CERTIFICATES = Path("/etc/ec2/amitools")

Bucket = Annotated[
    str | None,
    typer.Option("--bucket", metavar="s3://BUCKET[/PREFIX]", help="The bucket of your bundles, to check and to allow."),
]
Region = Annotated[str | None, typer.Option("--region", metavar="REGION", help="Region; default: the bucket's.")]
AmiTools = Annotated[
    Path | None,
    typer.Option(
        "--ami-tools",
        metavar="FILE|DIR",
        help="Amazon's ec2-ami-tools.zip, its directory, or cert-ec2.pem: where EC2's certificate is taken from.",
    ),
]
Endpoint = Annotated[
    str | None,
    typer.Option("--endpoint-url", metavar="URL", help="Endpoint of another cloud."),
]
System = Annotated[
    bool | None,
    typer.Option("--system/--user", help="Set up the daemon for all, or files of your own; default: system as root."),
]
Group = Annotated[
    str | None, typer.Option("--group", metavar="NAME", help="With --system: a group whose members may use the daemon.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that differ; never a key.")]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Only show what would be made; nothing is checked.")]


@dataclass(frozen=True, kw_only=True)
class _Asked:
    bucket: str
    region: str
    endpoint_url: str
    ami_tools: Path | None
    is_system: bool
    group: str

    @property
    def bucket_name(self) -> str:
        return self.bucket.removeprefix("s3://").partition("/")[0]

    @property
    def config(self) -> Path:
        home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        return DEFAULT_CONFIG if self.is_system else home / "amistream" / "amistream.toml"


def init(
    *,
    bucket: Bucket = None,
    region: Region = None,
    ami_tools: AmiTools = None,
    endpoint_url: Endpoint = None,
    system: System = None,
    group: Group = None,
    force: Force = False,
    dry_run: DryRun = False,
    as_json: JsonOption = False,
) -> int:
    """Set up what a first job needs, check it, and print the IAM policy.

    It makes a key pair, unless EC2_CERT and EC2_PRIVATE_KEY name yours, takes EC2's certificate from ec2-ami-tools by
    its fingerprint, and writes the configuration, as root also the units of systemd. It changes nothing that is there,
    so it can be run again; it starts nothing.
    Exit status: 0 when no check failed, else 3.

    Example: [bold]amistream init --bucket s3://my-bucket --ami-tools ec2-ami-tools.zip[/bold]

    Example: [bold]sudo amistream init --system --group amistream --bucket s3://my-bucket --dry-run[/bold]
    """
    asked = _asked(bucket, region, endpoint_url, ami_tools, system=system, group=group)
    region = _region_of(asked)
    from amistream.cli.set_up import carry_out

    outcomes = []
    for step, outcome in carry_out(_steps(asked, region), force=force, dry_run=dry_run):
        outcomes.append({"outcome": outcome, "about": step.about, "fix": step.fix})
        if not as_json:
            put_result(
                "\n".join([f"{outcome:<13} {step.about}", *(f"{'':14}{line}" for line in step.fix.splitlines())])
            )
    findings = [] if dry_run else _checked(asked, region)
    _put_rest(asked, region, findings, outcomes if as_json else None)
    return status_of(findings)


def _asked(
    bucket: str | None,
    region: str | None,
    endpoint_url: str | None,
    ami_tools: Path | None,
    *,
    system: bool | None,
    group: str | None,
) -> _Asked:
    is_system = os.geteuid() == 0 if system is None else system
    if is_system and os.geteuid():
        raise UsageError("usage", "cannot set up the system: only root may", hint="use sudo, or --user")
    if group and not is_system:
        raise UsageError("usage", "cannot make the group: --group is for --system", hint="leave --group out")
    if group and not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", group):
        raise UsageError("usage", f"cannot make the group {group!r}: it is no group's name", hint="write --group NAME")
    if bucket is not None:
        from amistream.cli.manifest_arguments import bucket_address

        bucket = bucket_address(bucket)
    return _Asked(
        bucket=bucket or "",
        region=region or "",
        endpoint_url=endpoint_url or "",
        ami_tools=ami_tools,
        is_system=is_system,
        group=group or "",
    )


def _region_of(asked: _Asked) -> str:
    """The region: as given, the bucket's, or that of the SDK's configuration; '' if none is known."""
    if asked.region:
        return asked.region
    from amistream.aws.buckets import bucket_region
    from amistream.aws.session import Aws
    from amistream.cli.foreground import run
    from amistream.errors import StoreError
    from amistream.settings import Settings

    settings = Settings()
    endpoint_url = asked.endpoint_url or settings.endpoint_url

    async def look() -> str:
        async with Aws(settings) as aws:
            if asked.bucket:
                try:
                    return await bucket_region(
                        aws,
                        asked.bucket_name,
                        region="",
                        endpoint_url=endpoint_url,
                        timeout_s=settings.stall_timeout_s,
                    )
                except (RefusedError, StoreError):
                    pass  # the checks report it
            return await aws.default_region()

    return run(look)


def _steps(asked: _Asked, region: str) -> list[Step]:
    """Everything that is needed, in order. Raises `RefusedError` for ec2-ami-tools without the certificate."""
    from amistream.cli.set_up import Found, MakeFile, MakeGroup, MakeKeys, configured, units
    from amistream.settings import Settings, variable_of

    state_dir = Settings().state_dir
    values = {name: json.dumps(text) for name, text in _settings(asked, state_dir).items() if text}
    if variable_of("state_dir") is not None:
        # The variable need not be set in a later command.
        values["state_dir"] = json.dumps(str(state_dir))
    pair = _named_pair()
    values |= {name: json.dumps(path) for name, path in pair.items()}
    certificate, place = _certificate(asked, region)
    if place is not None and not asked.is_system:
        values["ec2_certificates"] = f"{{ default = {json.dumps(str(place))} }}"
    group = [MakeGroup(about=f"the group {asked.group}", name=asked.group)] if asked.group else []
    config = MakeFile(
        about=f"the configuration {asked.config}",
        path=asked.config,
        content=configured(values),
        untouched=configured({}),
    )
    keys: Step = MakeKeys(about=f"your key pair in {state_dir}: keep a copy of it", state_dir=state_dir)
    if pair:
        keys = Found(about=f"your key pair {pair['private_key']} and {pair['certificate']}")
    return [*group, keys, *certificate, config, *(units(_ROOT, asked.group) if asked.is_system else [])]


def _named_pair() -> dict[str, str]:
    """The settings for the key pair that the variables of every job name, if both files are there."""
    names = {"certificate": "EC2_CERT", "private_key": "EC2_PRIVATE_KEY"}
    named = {
        setting: os.environ.get(f"AMISTREAM_{setting.upper()}") or os.environ.get(variable, "")
        for setting, variable in names.items()
    }
    pair = {setting: str(Path(path).absolute()) for setting, path in named.items() if path and Path(path).is_file()}
    return pair if len(pair) == len(names) else {}


def _settings(asked: _Asked, state_dir: Path) -> dict[str, str]:
    return {
        "socket": "" if asked.is_system else str(state_dir / "amistream.sock"),
        "socket_group": asked.group,
        "region": asked.region,
        "endpoint_url": asked.endpoint_url,
    }


def _certificate(asked: _Asked, region: str) -> tuple[list[Step], Path | None]:
    """The step for EC2's certificate, and its place if it comes from ec2-ami-tools. Other clouds have their own."""
    from amistream.aws.ami_tools import certificate_in
    from amistream.aws.regions import find_ec2_certificate, known_certificate
    from amistream.cli.set_up import Found, MakeFile, Missing
    from amistream.settings import load

    known = known_certificate(region)
    if known is None or asked.endpoint_url:
        return [], None
    if asked.ami_tools is not None:
        place = (_SYSTEM_CERTIFICATES if asked.is_system else asked.config.parent) / known.file_name
        content = certificate_in(asked.ami_tools, known)
        return [MakeFile(about=f"EC2's certificate {place}", path=place, content=content)], place
    settings = load(asked.config if asked.config.exists() else None)
    try:
        find_ec2_certificate(region, explicit=None, configured=settings.ec2_certificates)
    except RefusedError as error:
        return [Missing(about=f"EC2's certificate {known.file_name}", fix=error.hint)], None
    return [Found(about=f"EC2's certificate {known.file_name}")], None


def _checked(asked: _Asked, region: str) -> list[Finding]:
    """Run the checks of a job to the bucket with the new settings, in this process."""
    from amistream.request import parse_check_request
    from amistream.settings import load

    given = {"destinations": [asked.bucket] if asked.bucket else [], "endpoint_url": asked.endpoint_url}
    values = {name: value for name, value in {**given, "region": region}.items() if value}
    return find(parse_check_request(values), load(asked.config), None)


def _put_rest(asked: _Asked, region: str, findings: list[Finding], outcomes: list[dict[str, str]] | None) -> None:
    """Write the findings, the policy and the next commands; with `outcomes` of the steps all of it as JSON."""
    from amistream.aws.iam_policy import iam_policy
    from amistream.aws.regions import partition_of

    policy = iam_policy(partition_of(region), asked.bucket_name or "BUCKET")
    if outcomes is not None:
        found = [finding.model_dump(mode="json") for finding in findings]
        put_result(json.dumps({"steps": outcomes, "findings": found, "policy": policy}))
        return
    if findings:
        put_result(f"\n{findings_text(findings, with_all=False)}", paint_finding)
    put_result(f"\nIAM policy of all permissions of a job:\n{json.dumps(policy, indent=2)}")
    bundle = f"amistream doctor SOURCE --to {asked.bucket or 's3://BUCKET'}"
    if asked.is_system:
        # A restart, because a socket that is open keeps its group.
        unit = "amistream.socket"
        commands = ["systemctl daemon-reload", f"systemctl enable {unit}", f"systemctl restart {unit}", bundle]
    else:
        commands = [f"export AMISTREAM_CONFIG={asked.config}", f"{bundle} --in-process"]
    put_result("\n".join(["", "Next:", *(f"  {command}" for command in commands)]))
