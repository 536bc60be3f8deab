"""This machine: its mounts and devices, the programs it runs, the files it makes."""
