"""The options of `bundle`, in the panels in which `--help` shows them: their names, variables and help, and no more.

What a value may be is judged by `JobRequest`, so that the command and the socket API say the same; here all are text or
flags. Variables are those of the settings with the same name, and the ones that the EC2 tools know.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

DESTINATION = "Destination"
IDENTITY = "Identity"
IMAGE = "Image"
REGISTRATION = "Registration"
SPEED = "Speed"


def _option(*names: str, panel: str, help: str, **more: Any) -> Any:  # noqa: A002 - typer's word
    return typer.Option(*names, rich_help_panel=panel, help=help, show_default=False, **more)


Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="Block device, or image file: raw, qcow2, VMDK, VHD or VHDX; - is standard input.",
        show_default=False,
    ),
]
ImageSize = Annotated[
    str | None,
    typer.Option("--image-size", metavar="SIZE", help="Exact size of a SOURCE that comes through a pipe, as 10GiB."),
]
Live = Annotated[
    bool | None,
    typer.Option("--live", help="Take SOURCE although it is mounted read-write: it is frozen, or may be torn."),
]
Destination = Annotated[
    str, _option("--to", panel=DESTINATION, metavar="s3://BUCKET[/KEY/PREFIX]|DIR", help="Where the bundle goes.")
]
Destinations = Annotated[
    list[str],
    _option(
        "--to",
        panel=DESTINATION,
        metavar="s3://BUCKET[/KEY/PREFIX]|DIR",
        help="Where the bundle goes; may be repeated: one pass serves them all, and each region gets its AMI.",
    ),
]
AllOrNone = Annotated[
    bool | None,
    _option("--all-or-none", panel=DESTINATION, help="Stop when one of several destinations fails; default: go on."),
]
Prefix = Annotated[
    str | None,
    _option(
        "--prefix",
        panel=DESTINATION,
        metavar="NAME",
        envvar="AMISTREAM_PREFIX",
        help="Start of every object's name, as image.",
    ),
]
Region = Annotated[
    str | None,
    _option(
        "--region",
        panel=DESTINATION,
        metavar="REGION",
        envvar="AMISTREAM_REGION",
        help="Region; default: the bucket's.",
    ),
]
EndpointUrl = Annotated[
    str | None,
    _option(
        "--endpoint-url",
        panel=DESTINATION,
        metavar="URL",
        envvar="AMISTREAM_ENDPOINT_URL",
        help="Endpoint of S3, EC2 and STS, for tests and compatible clouds.",
    ),
]
Acl = Annotated[
    str | None,
    _option(
        "--acl",
        panel=DESTINATION,
        metavar="aws-exec-read|public-read",
        envvar="AMISTREAM_ACL",
        help="Canned ACL of every object; EC2 must be able to read them.",
    ),
]
Account = Annotated[
    str | None,
    _option(
        "--account",
        panel=IDENTITY,
        metavar="123456789012",
        envvar=["AMISTREAM_ACCOUNT", "EC2_ACCOUNT_ID", "AWS_ACCOUNT_ID"],
        help="AWS account id; default: asked of STS.",
    ),
]
Certificate = Annotated[
    str | None,
    _option(
        "--cert",
        panel=IDENTITY,
        metavar="FILE",
        envvar=["AMISTREAM_CERTIFICATE", "EC2_CERT"],
        help="Your X.509 certificate, PEM.",
    ),
]
PrivateKey = Annotated[
    str | None,
    _option(
        "--private-key",
        panel=IDENTITY,
        metavar="FILE",
        envvar=["AMISTREAM_PRIVATE_KEY", "EC2_PRIVATE_KEY"],
        help="Your RSA private key, PEM.",
    ),
]
Ec2Certificate = Annotated[
    str | None,
    _option("--ec2-cert", panel=IDENTITY, metavar="FILE", help="EC2's certificate; default: the region's own."),
]
Architecture = Annotated[
    str | None,
    _option(
        "--arch",
        panel=IMAGE,
        metavar="i386|x86_64|arm64",
        envvar="AMISTREAM_ARCHITECTURE",
        help="Architecture of the image's kernel.",
    ),
]
Virtualization = Annotated[
    str | None,
    _option("--virtualization", panel=IMAGE, metavar="hvm|paravirtual", help="How it boots; default: hvm."),
]
Kernel = Annotated[
    str | None, _option("-k", "--kernel", panel=IMAGE, metavar="aki-ID", help="Kernel of a paravirtual image.")
]
Ramdisk = Annotated[
    str | None, _option("-r", "--ramdisk", panel=IMAGE, metavar="ari-ID", help="RAM disk of a paravirtual image.")
]
BlockDeviceMappings = Annotated[
    list[str] | None,
    _option(
        "-B",
        "--block-device-mapping",
        panel=IMAGE,
        metavar="VIRTUAL=DEVICE,...",
        help="As ephemeral0=sdb,root=/dev/sda1; may be repeated.",
    ),
]
ProductCodes = Annotated[
    list[str] | None,
    _option("--product-code", panel=IMAGE, metavar="CODE", help="Product code; may be repeated."),
]
Ancestors = Annotated[
    list[str] | None,
    _option("--ancestor", panel=IMAGE, metavar="ami-ID", help="AMI this one was made from; may be repeated."),
]
Inherit = Annotated[
    bool | None,
    _option(
        "--inherit/--no-inherit",
        panel=IMAGE,
        help="Take mapping, kernel, RAM disk, product codes and ancestors from this instance.",
    ),
]
RegisterImage = Annotated[
    bool | None,
    _option("--register/--no-register", panel=REGISTRATION, help="Register the AMI; default: when it goes to S3."),
]
AmiName = Annotated[
    str | None,
    _option(
        "--ami-name", panel=REGISTRATION, metavar="NAME", help="Name of the AMI; default: the prefix and the time."
    ),
]
Description = Annotated[
    str | None, _option("--description", panel=REGISTRATION, metavar="TEXT", help="Description of the AMI.")
]
Sriov = Annotated[
    bool | None, _option("--sriov", panel=REGISTRATION, help="Enhanced networking with the Intel 82599 VF.")
]
Ena = Annotated[bool | None, _option("--ena", panel=REGISTRATION, help="Enhanced networking with ENA.")]
Tags = Annotated[
    list[str] | None,
    _option("--tag", panel=REGISTRATION, metavar="KEY=VALUE", help="Tag of the AMI; may be repeated."),
]
PartSize = Annotated[
    str | None,
    _option(
        "--part-size",
        panel=SPEED,
        metavar="SIZE",
        envvar="AMISTREAM_PART_SIZE",
        help="Size of a part, as 10MiB.",
    ),
]
UploadConcurrency = Annotated[
    str | None,
    _option(
        "--upload-concurrency",
        panel=SPEED,
        metavar="N",
        envvar="AMISTREAM_UPLOAD_CONCURRENCY",
        help="Parts in flight.",
    ),
]
Compress = Annotated[
    str | None,
    _option(
        "--compress",
        panel=SPEED,
        metavar="fast|balanced|small|auto|1..9",
        envvar="AMISTREAM_COMPRESS",
        help="How hard to compress; auto: what fits the link.",
    ),
]
Workers = Annotated[
    str | None,
    _option(
        "--workers",
        panel=SPEED,
        metavar="N",
        envvar="AMISTREAM_WORKERS",
        help="Compute threads; default: one per core.",
    ),
]
Sparse = Annotated[
    str | None,
    _option(
        "--sparse",
        panel=SPEED,
        metavar="auto|always|never",
        envvar="AMISTREAM_SPARSE",
        help="Leave the volume's holes out of the bundle; they come back as zeros.",
    ),
]
LimitUpload = Annotated[
    str | None,
    _option(
        "--limit-upload",
        panel=SPEED,
        metavar="RATE",
        envvar="AMISTREAM_LIMIT_UPLOAD",
        help="Bytes per second to S3 at most, such as 20MiB.",
    ),
]
MemoryLimit = Annotated[
    str | None,
    _option(
        "--memory-limit",
        panel=SPEED,
        metavar="SIZE",
        envvar="AMISTREAM_MEMORY_LIMIT",
        help="Memory of the process to keep under, by having fewer parts in flight.",
    ),
]
Nice = Annotated[
    str | None,
    _option(
        "--nice",
        panel=SPEED,
        metavar="0..19",
        envvar="AMISTREAM_NICE",
        help="Let other work on this machine go first; above 0 disk reads do too.",
    ),
]
InProcess = Annotated[
    bool, typer.Option("--in-process", help="Run the job in this process, without a daemon; Ctrl-C cancels it.")
]
