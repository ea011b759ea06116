"""The control socket's server: connections, their rights, and who follows events.

What the requests do is in :mod:`prl.daemon.requests`, above all that they ask for.
"""
