"""The stages from a bundle's ciphertext back to the image: `decrypt`, `inflate`, `unarchive`.

Pure transforms with the contract of `amistream.stages`: `feed` and `finish` yield the output, `result` gives digests
and sizes. Invalid data raises a `FlawError` as soon as the stream shows it, always the same one however the stream is
cut. Unlike the stages of bundling, each yields new buffers: some are kept until another thread has worked on them.
"""
