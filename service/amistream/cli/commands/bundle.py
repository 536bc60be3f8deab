"""The command `bundle`: from its options to a request, and from there to the job's end.

Every parameter but the last few carries the name of the `JobRequest` field that it fills, so that no table stands
between the two: `typer` collects what was given, and an error that names a field is told with the option's name.
"""
# ruff: noqa: ARG001 - the values are read all at once, from the context
# ruff: noqa: PLC0415 - what only a valid command needs is imported when there is one

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from amistream.cli import bundle_options as options
from amistream.cli.options import ConfigOption, DetachOption, JsonOption, SocketOption, socket_path
from amistream.cli.output import put_note
from amistream.errors import EXIT_INTERRUPTED, UsageError
from amistream.values import STANDARD_INPUT, is_path

if TYPE_CHECKING:
    from amistream.cli.client import Client
    from amistream.request import JobRequest

FILE_FIELDS = ("source", "certificate", "private_key", "ec2_certificate")
"""Fields with a path: a relative one means the caller's directory, which the daemon does not know."""


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


def make_request(params: dict[str, Any]) -> JobRequest:
    """The request that a command's parameters stand for. Raises `UsageError` that names the field at fault."""
    from amistream.request import JobRequest, parse_request

    values = {name: value for name in JobRequest.model_fields if (value := params.get(name)) not in (None, [], ())}
    for name in (*FILE_FIELDS, "destinations"):
        if values.get(name) == "" or "" in (values["destinations"] if name == "destinations" else ()):
            raise UsageError(
                "request.invalid",
                f"cannot take the request: {name}: it is empty",
                hint="is a variable of the script not set?",
                field=name,
            )
    for name in FILE_FIELDS:
        if name in values and values[name] != STANDARD_INPUT:
            values[name] = str(Path(values[name]).absolute())
    values["destinations"] = [
        str(Path(destination).absolute()) if is_path(destination) else destination
        for destination in values["destinations"]
    ]
    if "block_device_mappings" in values:
        mappings = [pair for text in values["block_device_mappings"] for pair in text.split(",")]
        values["block_device_mappings"] = _pairs(mappings, "block_device_mappings", "VIRTUAL=DEVICE")
    if "tags" in values:
        values["tags"] = _pairs(values["tags"], "tags", "KEY=VALUE")
    return parse_request(values)


def _pairs(texts: list[str], field: str, form: str) -> dict[str, str]:
    for text in texts:
        if "=" not in text:
            raise UsageError(
                "request.invalid",
                f"cannot take the request: {field}: {text!r} is not of the form {form}",
                hint="`amistream bundle --help` shows an example",
                field=field,
            )
    names = [text.partition("=")[0] for text in texts]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(
            "request.invalid", f"cannot take the request: {field}: {twice!r} is given more than once", field=field
        )
    return dict(text.split("=", 1) for text in texts)


def in_option_words(error: UsageError, context: typer.Context) -> UsageError:
    """Say the same with the option's name in place of the field's, and the variable that set it, if one did."""
    message = error.message
    if error.field in context.params:
        name = _option_name(context, error.field)
        if f": {error.field}: " in message:
            message = message.replace(f": {error.field}: ", f": {name}: ", 1)
        elif name not in message:
            message = f"{message} ({name})"
    elif error.code == "request.invalid":
        # Rules about several fields name them in the sentence.
        for field in context.params:
            message = re.sub(rf"\b{field}\b", _option_name(context, field), message)
    return UsageError(error.code, message, hint=error.hint, field=error.field)


def _option_name(context: typer.Context, field: str) -> str:
    parameter = next(each for each in context.command.params if each.name == field)
    name = next((each for each in parameter.opts if each.startswith("--")), field.upper())
    origin = context.get_parameter_source(field)
    if origin is not None and origin.name == "ENVIRONMENT":
        variables = [parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar or []
        name += f" (from {next(each for each in variables if os.environ.get(each))})"
    return name
