"""A live directory tree as the image of a fresh file system, made while it is read: no mount, no mkfs, no disk space.

Pass one (`walk`) records every entry below a directory in columns (`tree`), by the rules of `select`. `layout` then
fixes the place of each of them in an ext2, ext3 or ext4 file system. From there on the image is a pure function of the
layout and the files' contents: `image` makes the blocks of the file system itself when they are asked for, `contents`
reads the files, and `volume` joins the two. Nothing is kept but the columns and the segments of the layout.
"""
