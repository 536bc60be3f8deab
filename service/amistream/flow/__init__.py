"""How payload moves: worker threads that carry blocks in order, the buffers they share, and the undoing of what was
made.
"""
