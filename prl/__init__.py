"""Live TCP and UDP sessions that outlive the host that serves them.

The application's interface is :mod:`prl.client`: ``prl.client.Node``.
"""

__version__ = "0.2.0"
"""Its only place: package, manual pages and `prlctl --version` have it from here."""
