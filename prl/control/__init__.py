"""The protocol of the control socket, without I/O: what prld and its clients share."""
