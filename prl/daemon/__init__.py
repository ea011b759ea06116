"""prld: the control plane of one node. ``main`` starts it, ``node`` puts it together."""
