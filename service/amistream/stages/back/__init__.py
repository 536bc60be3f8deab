"""The way back, from a bundle's ciphertext to the image: `decrypt`, `inflate`, `unarchive`.

Pure transforms with the contract of `amistream.stages`: `feed` and `finish` yield what is made, `result` says what was
measured. What is not as it should be is a `FlawError`, raised as soon as the stream shows it, and always the same one
however the stream is cut. Unlike the stages of the way there, each yields buffers of its own: some are kept
until another thread has worked on them.
"""
