"""Live TCP and UDP sessions that outlive the host that serves them.

The application's interface is :mod:`prl.client`: ``prl.client.Node``.
"""

__version__ = "0.1.0"
