"""Images of virtual machines, read with QEMU's own tools."""
