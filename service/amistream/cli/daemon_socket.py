"""Finds the daemon's socket. Settings are loaded only where the file needs their judgement."""

from __future__ import annotations

from pathlib import Path

from amistream.process import DEFAULT_CONFIG, DEFAULT_SOCKET


def socket_path(socket: Path | None, config: Path | None) -> Path:
    """Give the socket of the option, or else of the settings."""
    if config is None and (known := socket or known_socket(DEFAULT_CONFIG)):
        return known
    # Loading settings takes most of a short command's time, and is skipped if the socket is known.
    from amistream.settings import load

    # A given file is always read, because it may be invalid.
    settings = load(config)
    return socket or settings.socket


def known_socket(config: Path) -> Path | None:
    """The socket that a settings file names, or the default; None if the file is one for `settings` to judge."""
    import tomllib

    try:
        named = tomllib.loads(config.read_text()).get("socket", DEFAULT_SOCKET)
    except FileNotFoundError:
        return DEFAULT_SOCKET
    except (OSError, ValueError):
        return None
    return Path(named) if isinstance(named, str | Path) else None
