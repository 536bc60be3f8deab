"""Reads a disk image's content from `qemu-nbd`, over a private Unix socket.

Protocol: NBD, fixed newstyle, simple replies (github.com/NetworkBlockDevice/nbd, doc/proto.md), as far as one reader of
one export needs it. The calls block: use them on threads.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

from amistream.host.program import PATIENCE_S, ServerTool
from amistream.source.qemu.formats import Format

_GREETING = struct.Struct(">8s8sH")
_MAGIC = (b"NBDMAGIC", b"IHAVEOPT")
_NEWSTYLE = 0b11
"""Flags of both sides: fixed newstyle, and no zeros after the handshake."""
_CHOICE = struct.Struct(">I8sII")
_EXPORT_NAME = 1
_EXPORT_SIZE = 10
"""Bytes of its description: the size and flags."""
_REQUEST = struct.Struct(">IHHQQI")
_REQUEST_MAGIC = 0x25609513
_READ, _HANG_UP = 0, 2
_REPLY = struct.Struct(">IIQ")
_REPLY_MAGIC = 0x67446698
_MOST = 32 * 1024 * 1024
"""The most bytes per request that a server accepts without announcing it."""


class NbdServer:
    """A `qemu-nbd` that serves the disk in one image. Close it."""

    def __init__(self, descriptor: int, image_format: Format) -> None:
        """Serve the image behind the open file `descriptor`. Raises `ToolMissingError`, or OSError with the reason."""
        self._lock = threading.Lock()
        options = ["--read-only", "--shared=1", "--image-opts"]
        self._server = ServerTool("qemu-nbd", options, descriptor, before=image_format.as_option)
        self._connection = self._server.connection
        # `interrupt` comes to a server that has greeted.
        self._connection.settimeout(PATIENCE_S)
        try:
            *magic, flags = _GREETING.unpack(self._receive(_GREETING.size))
            if tuple(magic) != _MAGIC or flags & _NEWSTYLE != _NEWSTYLE:
                raise OSError("the server does not use the NBD protocol of qemu-nbd")
            self._connection.sendall(_CHOICE.pack(_NEWSTYLE, _MAGIC[1], _EXPORT_NAME, 0))
            self._receive(_EXPORT_SIZE)
            # The image may have been changed since it was checked: see which files the server has open now.
            if self._server.strays(descriptor):
                raise OSError("the image refers qemu-nbd to another file")
            self._connection.settimeout(None)
        except OSError as error:
            raise self._server.end() or error from None

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the whole buffer from `offset` on. Raises OSError."""
        with self._lock:
            for done in range(0, len(buffer), _MOST):
                self._read(offset + done, buffer[done : done + _MOST])

    def interrupt(self) -> None:
        """Make a waiting read fail, and every later one."""
        self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # the server ended already, or was interrupted
            self._connection.sendall(_REQUEST.pack(_REQUEST_MAGIC, 0, _HANG_UP, 0, 0, 0))
        self._server.end()

    def _read(self, offset: int, buffer: memoryview) -> None:
        self._connection.sendall(_REQUEST.pack(_REQUEST_MAGIC, 0, _READ, offset, offset, len(buffer)))
        magic, error, cookie = _REPLY.unpack(self._receive(_REPLY.size))
        if magic != _REPLY_MAGIC or cookie != offset:
            raise OSError("the server's answer does not match the request")
        if error:
            raise OSError(error, "qemu-nbd could not read it")
        self._receive_into(buffer)

    def _receive(self, length: int) -> bytes:
        data = bytearray(length)
        self._receive_into(memoryview(data))
        return bytes(data)

    def _receive_into(self, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            count = self._connection.recv_into(buffer[done:])
            if count == 0:
                raise OSError("qemu-nbd hung up")
            done += count
