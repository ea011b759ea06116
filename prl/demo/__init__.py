"""The whole story in a lab of its own: a session that outlives its host, proved with hashes."""
