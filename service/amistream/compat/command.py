"""The command `compat`: runs a command of the older tools by its name."""

from __future__ import annotations

from typing import Annotated

import typer

from amistream.compat import main
from amistream.compat.tables import known_names

Name = Annotated[str, typer.Argument(metavar="NAME", help=f"One of {', '.join(known_names())}.")]


def compat(context: typer.Context, name: Name) -> int:
    """Run a command of ec2-ami-tools or euca2ools with its own options.

    The same commands are installed as scripts with their own names. NAME --help describes the options.

    Example: [bold]amistream compat ec2-bundle-image -i disk.img -d bundled -u 111122223333 -r x86_64 -c cert.pem
    -k pk.pem[/bold]
    """
    return main.run(name, context.args)
