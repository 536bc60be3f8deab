"""The stages of the data path, one file each: read, archive, compress, join, encrypt, split, upload, manifest,
register.

`archive`, `compress`, `join`, `encrypt`, `split` and `manifest` are pure: bytes in, bytes out, then a
result. They use no clock, file, socket or event loop; keys and times are arguments. `pipeline.py` puts the stages in
order.
"""
