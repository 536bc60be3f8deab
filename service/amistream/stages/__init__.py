"""The stages of the data path, one file each: read, archive, compress, encrypt, split, upload, manifest, register.

`archive`, `compress`, `encrypt`, `split` and `manifest` are pure: bytes in, bytes out, then a result. They know no
clock, file, socket or event loop, and get keys and times as arguments. `pipeline.py` puts them in order.
"""
