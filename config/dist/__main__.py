"""The command of the build: `python -m config.dist build`, `audit`, `lock`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from config.dist import audit, build, lock
from config.dist.project import ARCHITECTURES, OUTPUT, BuildError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m config.dist", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    building = commands.add_parser("build", help="build the installations into dist/")
    building.add_argument("--arch", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    building.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="default: dist")
    commands.add_parser("audit", help="report packages of the lock that Debian has published anew")
    commands.add_parser("lock", help="write the lock anew, from the newest versions")
    arguments = parser.parse_args()
    try:
        if arguments.command == "build":
            build.build(arguments.arch, arguments.output)
        elif arguments.command == "audit":
            audit.report()
        else:
            lock.write()
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
