"""Images of virtual machines, read through qemu's own tools."""
