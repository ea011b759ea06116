"""prld: the control plane of one node, a package for each concern.

``main`` starts it, ``node`` puts it together, ``requests`` does what the control socket is asked.
"""
