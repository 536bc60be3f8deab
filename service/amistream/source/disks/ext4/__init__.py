"""File systems of the ext family (ext2, ext3, ext4): which of their blocks are used, and what their files hold."""
