"""The command `completion`: prints the script by which a shell completes words."""

from __future__ import annotations

from typing import Annotated

import typer

from amistream.cli.completion import SCRIPTS
from amistream.cli.output import put_result
from amistream.errors import EXIT_DONE, UsageError

Shell = Annotated[str, typer.Argument(metavar="bash|zsh|fish", help="The shell.", show_default=False)]


def completion(shell: Shell) -> int:
    """Print the script that completes commands, options, their values and job ids in a shell.

    Packages install it; elsewhere put it where the shell finds it, or read it in each session.

    Example: [bold]amistream completion bash > /etc/bash_completion.d/amistream[/bold]

    Example: [bold]amistream completion zsh > /usr/local/share/zsh/site-functions/_amistream[/bold]

    Example: [bold]amistream completion fish > /usr/share/fish/vendor_completions.d/amistream.fish[/bold]
    """
    if shell not in SCRIPTS:
        raise UsageError(
            "usage", f"cannot complete words in {shell!r}: it is none of {', '.join(SCRIPTS)}", field="shell"
        )
    put_result(SCRIPTS[shell].rstrip("\n"))
    return EXIT_DONE
