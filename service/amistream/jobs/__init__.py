"""A job from request to end: what may be asked, what is checked first, how it runs, and the queue it waits in."""
