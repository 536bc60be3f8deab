"""The command `bundle`: from its options to a request, and from there to the job's end.

Every parameter but the last few carries the name of the `JobRequest` field that it fills, so that no table stands
between the two: `typer` collects what was given, and an error that names a field is told with the option's name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from amistream.cli import bundle_options as options
from amistream.cli.options import ConfigOption, DetachOption, JsonOption, SocketOption, socket_path
from amistream.cli.output import put_note
from amistream.cli.request_words import in_option_words, make_request
from amistream.errors import EXIT_INTERRUPTED, UsageError
from amistream.values import STANDARD_INPUT

if TYPE_CHECKING:
    from amistream.cli.client import Client


def bundle(
    context: typer.Context,
    source: options.Source,
    *,
    destinations: options.Destinations,
    image_size: options.ImageSize = None,
    all_or_none: options.AllOrNone = None,
    live: options.Live = None,
    prefix: options.Prefix = None,
    region: options.Region = None,
    endpoint_url: options.EndpointUrl = None,
    acl: options.Acl = None,
    account: options.Account = None,
    certificate: options.Certificate = None,
    private_key: options.PrivateKey = None,
    ec2_certificate: options.Ec2Certificate = None,
    architecture: options.Architecture = None,
    virtualization: options.Virtualization = None,
    kernel: options.Kernel = None,
    ramdisk: options.Ramdisk = None,
    block_device_mappings: options.BlockDeviceMappings = None,
    product_codes: options.ProductCodes = None,
    ancestors: options.Ancestors = None,
    inherit: options.Inherit = None,
    register_image: options.RegisterImage = None,
    ami_name: options.AmiName = None,
    description: options.Description = None,
    sriov: options.Sriov = None,
    ena: options.Ena = None,
    tags: options.Tags = None,
    part_size: options.PartSize = None,
    upload_concurrency: options.UploadConcurrency = None,
    compress: options.Compress = None,
    workers: options.Workers = None,
    sparse: options.Sparse = None,
    limit_upload: options.LimitUpload = None,
    memory_limit: options.MemoryLimit = None,
    nice: options.Nice = None,
    in_process: options.InProcess = False,
    detach: DetachOption = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Bundle SOURCE into an instance store-backed (S3-backed) AMI and follow the job to its end.

    What is not given comes from the daemon's settings, with --in-process from one's own.

    Ctrl-C leaves the daemon's job running; with --in-process it cancels the job.

    Example: [bold]amistream bundle /dev/xvda --to s3://my-bucket/web --ami-name web-1[/bold]

    Example: [bold]amistream bundle disk.img --to s3://bucket-in-eu/web --to s3://bucket-in-us/web[/bold]

    Example: [bold]amistream bundle disk.img --to ./bundle --cert cert.pem --private-key pk.pem[/bold]

    Example: [bold]zcat disk.img.gz | amistream bundle - --image-size 10GiB --to s3://my-bucket/web --in-process[/bold]
    """
    if source == STANDARD_INPUT and not in_process:
        raise UsageError(
            "usage",
            "cannot bundle standard input in the daemon: it has one of its own",
            hint="give --in-process: then the job runs in this process",
            field="source",
        )
    if in_process and detach:
        raise UsageError("usage", "cannot run the command: --detach needs the daemon, and --in-process has none")
    try:
        request = make_request(context.params)
        if in_process:
            from amistream.cli.follow import put_end
            from amistream.cli.in_process import run_in_process

            job, interrupted = run_in_process(request, config)
            status = put_end(job, as_json=as_json)
            return EXIT_INTERRUPTED if interrupted else status

        from amistream.cli.follow import follow_in_daemon, put_begun, put_end

        async def begin(client: Client) -> str:
            return await client.submit(request)

        path = socket_path(socket, config)
        given = context.get_parameter_source("config")
        if given is not None and given.name == "COMMANDLINE":
            put_note("note: the job has the daemon's settings; of --config only the socket counts without --in-process")
        job = follow_in_daemon(path, begin, detach=detach)
        return put_begun(job, as_json=as_json) if detach else put_end(job, as_json=as_json)
    except UsageError as error:
        raise in_option_words(error, context) from error
