"""prlctl. ``main`` has the commands; ``output`` prints what they find."""
