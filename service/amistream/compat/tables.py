"""The options of every old command, named as in Amazon's AMI tools reference and euca2ools' manual pages."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from amistream.compat.options import Option, Use, option
from amistream.errors import EXIT_INTERRUPTED


class Family(StrEnum):
    """The tools that a command belongs to, which determines its exit statuses."""

    AMI_TOOLS = "ec2-ami-tools"
    EUCA2OOLS = "euca2ools"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One old command."""

    name: str
    about: str
    options: tuple[Option, ...] = ()
    family: Family = Family.AMI_TOOLS
    writes_files: bool = False
    """Writes data of S3 to a directory, so that an existing file is a local problem."""
    takes_words: bool = False
    """Takes words that belong to no option."""
    failed: int = 0
    """The exit status of all failures but invalid options, if it is only one."""
    interrupted: int = EXIT_INTERRUPTED

    @property
    def uses_s3(self) -> bool:
        return any(each.ours == "--endpoint-url" for each in self.options)


_COMMON = (
    option("--version", "Show the version and exit."),
    option("--manual", "Show this help and exit."),
    option("--batch", "Without effect: only ec2-delete-bundle asks a question; --yes answers it.", use=Use.IDLE),
    option("--debug", "List the given options that have no effect."),
)
_RETRY = option("--retry", "Without effect: transient failures are always retried.", use=Use.IDLE)
_CERT = option("-c, --cert FILE", "Your X.509 certificate, PEM.", required=True, ours="--cert")
_KEY = option("-k, --privatekey FILE", "Your RSA private key, PEM.", required=True, ours="--private-key")
_EC2_CERT = option("--ec2cert FILE", "EC2's certificate; default: that of the region, if installed.", ours="--ec2-cert")
_KERNEL = option("--kernel ID", "Kernel (aki-...) for the manifest.", ours="--kernel")
_RAMDISK = option("--ramdisk ID", "RAM disk (ari-...) for the manifest.", ours="--ramdisk")
_MAPPING = option(
    "-B, --block-device-mapping VIRTUAL=DEVICE,...",
    "Virtual names and devices, for example ephemeral0=sdb,root=/dev/sda1.",
    repeated=True,
    ours="--block-device-mapping",
)
_CODES = option("--productcodes CODE,...", "Product codes to record.", repeated=True, ours="--product-code")
_ACCESS = (
    option("-a, --access-key ID", "AWS access key id; default: from the AWS SDK's usual sources."),
    option("-s, --secret-key KEY", "Its secret key. Other users can see it: better omit both.", use=Use.SECRET),
    option(
        "-t, --delegation-token TOKEN",
        "Session token of temporary keys; default: AWS_DELEGATION_TOKEN.",
        use=Use.SECRET,
    ),
)
_S3 = (
    *_ACCESS,
    option("--url URL", "S3 endpoint; default: that of AWS in the region.", ours="--endpoint-url"),
    option("--region REGION", "Region of the bucket; default: the bucket's own.", ours="--region"),
    option("--sigv VERSION", "Without effect: requests are signed with version 4.", use=Use.IDLE),
)
_BUCKET = option("-b, --bucket BUCKET[/PREFIX]", "Location of the bundle in S3.", required=True, ours="--to")
_TARGET = option(
    "-b, --bucket BUCKET[/PREFIX]",
    "Destination of the bundle; the bucket is created if missing.",
    required=True,
    ours="--to",
)
_ACL = option(
    "--acl ACL",
    "aws-exec-read (the default) or public-read.",
    choices=("aws-exec-read", "public-read"),
    ours="--acl",
)
_LOCATION = option("--location REGION", "Region in which a missing bucket is created; default: --region.")

COMMANDS = (
    Command(
        name="ec2-bundle-image",
        about="Bundle an image file or device into a directory, for ec2-upload-bundle.",
        options=(
            _CERT,
            _KEY,
            option("-u, --user ACCOUNT", "AWS account id, 12 digits.", required=True, ours="--account"),
            option("-i, --image FILE", "Image file or block device to bundle.", required=True, ours="SOURCE"),
            option("-d, --destination DIR", "Directory for the files; default: /tmp.", ours="--to"),
            _EC2_CERT,
            option("-r, --arch ARCH", "i386, x86_64 or arm64; default: x86_64.", ours="--arch"),
            _CODES,
            _MAPPING,
            option("-p, --prefix NAME", "Start of the files' names; default: the image's name.", ours="--prefix"),
            _KERNEL,
            _RAMDISK,
            option("--no-size-checks", "Without effect: the size is taken from the image.", use=Use.IDLE),
            *_COMMON,
        ),
    ),
    Command(
        name="ec2-bundle-vol",
        about="Bundle the running system, or a directory, into a directory. Further words are files to leave out.",
        takes_words=True,
        failed=254,
        interrupted=255,
        options=(
            _CERT,
            _KEY,
            option("-u, --user ACCOUNT", "AWS account id, 12 digits.", required=True, ours="--account"),
            option("-d, --destination DIR", "Directory for the files; default: /tmp.", ours="--to"),
            _EC2_CERT,
            option("-r, --arch ARCH", "i386, x86_64 or arm64; default: this machine's.", ours="--arch"),
            _CODES,
            _MAPPING,
            option("-p, --prefix NAME", "Start of the files' names; default: image.", ours="--prefix"),
            _KERNEL,
            _RAMDISK,
            option("-v, --volume DIR", "Directory or mount point to bundle; default: /.", ours="SOURCE"),
            option("-s, --size MB", "Size of the image in MiB; default: 10240, the most."),
            option("-a, --all", "Take in file systems mounted below, too."),
            option(
                "-e, --exclude PATH,...",
                "Leave out these files and directories; with the shell's wildcards.",
                repeated=True,
            ),
            option(
                "-i, --include PATH,...",
                "Take these in, whatever leaves them out; with the shell's wildcards.",
                repeated=True,
            ),
            option("--no-filter", "Take in files that look like secrets or leftovers by their names."),
            option(
                "--inherit",
                "Take mapping, kernel, RAM disk, product codes and ancestors of this instance: the default.",
            ),
            option("--no-inherit", "Do not ask for the instance's metadata."),
            option(
                "-P, --partition TYPE",
                "mbr, gpt or none; default: what the volume's own disk has.",
                choices=("mbr", "gpt", "none"),
            ),
            option("--fstab FILE", "Put this file into the image as /etc/fstab; the old one is fstab.old."),
            option("--generate-fstab", "Change /etc/fstab in the image so that it boots; the old one is fstab.old."),
            option("--grub-config FILE", "Put this file into the image as /boot/grub/menu.lst."),
            option("-S, --script FILE", "Run this program on a view of the volume; its changes are in the image only."),
            option("--clone-only", "not included: bundle the system; ec2-unbundle gives its image.", use=Use.REFUSED),
            option("--no-size-checks", "Without effect: the size is always checked.", use=Use.IDLE),
            option("--report FILE", "Write there what was left out and by which rule; new here."),
            *_COMMON,
        ),
    ),
    Command(
        name="ec2-upload-bundle",
        about="Copy a bundle from a directory into a bucket.",
        options=(
            _TARGET,
            option("-m, --manifest FILE", "The bundle's manifest.", required=True),
            *_S3,
            _ACL,
            option("-d, --directory DIR", "Directory of the parts; default: that of the manifest."),
            option("--part NUMBER", "Without effect: existing parts are not sent again.", use=Use.IDLE),
            option("--ec2cert FILE", "Without effect: the manifest is not encrypted.", use=Use.IDLE),
            _RETRY,
            option("--skipmanifest", "Send the parts only."),
            _LOCATION,
            *_COMMON,
        ),
    ),
    Command(
        name="ec2-download-bundle",
        about="Copy a bundle from a bucket into a directory.",
        writes_files=True,
        options=(
            _BUCKET,
            *_S3,
            option("-k, --privatekey FILE", "Without effect: manifests are no longer encrypted.", use=Use.IDLE),
            option("-m, --manifest NAME", "The manifest's name; default: PREFIX.manifest.xml."),
            option("-p, --prefix PREFIX", "Start of the objects' names; default: image."),
            option("-d, --directory DIR", "Directory for the files; default: the current directory."),
            _RETRY,
            *_COMMON,
        ),
    ),
    Command(
        name="ec2-unbundle",
        about="Restore the image from a bundle in a directory.",
        options=(
            _KEY,
            option("-m, --manifest FILE", "The bundle's manifest.", required=True),
            option("-s, --source DIR", "Directory of the parts; default: the current directory."),
            option(
                "-d, --destination DIR",
                "Directory for the image; default: the current directory.",
            ),
            *_COMMON,
        ),
    ),
    Command(
        name="ec2-delete-bundle",
        about="Delete a bundle from its bucket, unless an AMI uses it.",
        options=(
            _BUCKET,
            *_S3,
            option(
                "-m, --manifest FILE",
                "A copy of the bundle's manifest; it need not be in the bucket. This or --prefix.",
            ),
            option("-p, --prefix PREFIX", "The bundle's whole prefix. This or --manifest."),
            option("--clear", "Also delete the bucket, if it is then empty."),
            option("-y, --yes", "Do not ask."),
            _RETRY,
            *_COMMON,
        ),
    ),
    Command(
        name="ec2-migrate-manifest",
        about="Rewrite a manifest in a directory for another region; the old one stays as FILE.bak.",
        options=(
            _CERT,
            _KEY,
            option("-m, --manifest FILE", "The manifest.", required=True),
            option("-a, --access-key ID", "Without effect: no kernels are looked up.", use=Use.IDLE),
            option("-s, --secret-key KEY", "Without effect, and visible to other users: omit it.", use=Use.SECRET),
            option("-t, --delegation-token TOKEN", "Without effect, like --secret-key: omit it.", use=Use.SECRET),
            option("--region REGION", "Region of the new manifest.", ours="--region"),
            option("--no-mapping", "Keep the manifest's kernel and RAM disk, unless others are given."),
            _EC2_CERT,
            _KERNEL,
            _RAMDISK,
            *_COMMON,
        ),
    ),
    Command(
        name="ec2-migrate-bundle",
        about="Copy a bundle to another region's bucket, under a manifest for that region.",
        options=(
            _CERT,
            _KEY,
            _BUCKET,
            option(
                "-d, --destination-bucket BUCKET[/PREFIX]",
                "Destination; the bucket is created if missing.",
                required=True,
                ours="--to",
            ),
            option("-m, --manifest NAME", "The manifest's name in the bucket.", required=True),
            *_S3,
            _ACL,
            _LOCATION,
            option("--no-mapping", "Keep the manifest's kernel and RAM disk, unless others are given."),
            _EC2_CERT,
            _KERNEL,
            _RAMDISK,
            _RETRY,
            *_COMMON,
        ),
    ),
    Command(
        name="euca-bundle-and-upload-image",
        about="Bundle an image and send it to a bucket, in one pass.",
        family=Family.EUCA2OOLS,
        options=(
            option(
                "-i, --image FILE", "Image file, block device, or - for standard input.", required=True, ours="SOURCE"
            ),
            _TARGET,
            option("-r, --arch ARCH", "i386, x86_64 or arm64.", required=True, ours="--arch"),
            option("-p, --prefix NAME", "Start of the objects' names; default: the image's name.", ours="--prefix"),
            option(
                "-k, --privatekey FILE",
                "Your private key; default: EC2_PRIVATE_KEY, or a generated one.",
                ours="--private-key",
            ),
            option("-c, --cert FILE", "Your certificate; default: EC2_CERT, or a generated one.", ours="--cert"),
            _EC2_CERT,
            option(
                "-u, --user ACCOUNT",
                "Account id; default: EC2_USER_ID or EC2_ACCOUNT_NUMBER, else looked up with STS.",
                ours="--account",
            ),
            _KERNEL,
            _RAMDISK,
            option(
                "-B, --block-device-mappings VIRTUAL=DEVICE,...",
                "Virtual names and devices.",
                repeated=True,
                ours="--block-device-mapping",
            ),
            _CODES,
            option("--image-size BYTES", "The image's size; required for a pipe.", ours="--image-size"),
            _ACL,
            _LOCATION,
            option("-U, --url URL", "S3 endpoint; default: S3_URL.", ours="--endpoint-url"),
            option("--region REGION", "Region of the bucket. For USER@REGION, only REGION is used.", ours="--region"),
            option(
                "-I, --access-key-id ID",
                "Access key id; default: from the AWS SDK's usual sources, or EC2_ACCESS_KEY and EC2_SECRET_KEY.",
            ),
            option("-S, --secret-key KEY", "Its secret key. Other users can see it: better omit both.", use=Use.SECRET),
            option("--security-token TOKEN", "Session token of temporary keys.", use=Use.SECRET),
            option(
                "--image-type TYPE",
                "machine; kernels and RAM disks are not supported.",
                choices=("machine",),
            ),
            option("--part-size SIZE", "Size of a part; default: 10M.", ours="--part-size"),
            option("--batch", "Without effect: there are no prompts.", use=Use.IDLE),
            option("--max-pending-parts N", "Parts in flight.", ours="--upload-concurrency"),
            option("-d, --destination DIR", "Without effect: nothing is written to disk.", use=Use.IDLE),
            option(
                "--preserve-bundle", "Without effect: there is no bundle on disk. See amistream download.", use=Use.IDLE
            ),
            option("--bootstrap-url URL", "Without effect: give --ec2cert.", use=Use.IDLE),
            option("--upload-policy POLICY", "policies are not supported; give access keys.", use=Use.REFUSED),
            option("--upload-policy-file FILE", "policies are not supported; give access keys.", use=Use.REFUSED),
            option("--upload-policy-signature TEXT", "policies are not supported; give access keys.", use=Use.REFUSED),
            _RETRY,
            option("--progress", "Without effect: progress is shown on a terminal.", use=Use.IDLE),
            option("--no-progress", "Without effect: progress is shown on a terminal only.", use=Use.IDLE),
            option("--debugger", "Without effect.", use=Use.IDLE),
            option("--debug", "List the given options that have no effect."),
            option("--version", "Show the version and exit."),
        ),
    ),
)


def known_names() -> tuple[str, ...]:
    return tuple(command.name for command in COMMANDS)


def find_command(name: str) -> Command | None:
    return next((command for command in COMMANDS if command.name == name), None)
