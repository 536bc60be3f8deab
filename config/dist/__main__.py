"""The command of the build: `python -m config.dist build`, `lock`."""

from __future__ import annotations

import argparse
import sys

from config.dist import build, lock
from config.dist.project import ARCHITECTURES, BuildError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m config.dist", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    building = commands.add_parser("build", help="build the installations into dist/")
    building.add_argument("--arch", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    commands.add_parser("lock", help="write the lock anew, from the newest versions")
    arguments = parser.parse_args()
    try:
        if arguments.command == "build":
            build.build(arguments.arch)
        else:
            lock.write()
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
