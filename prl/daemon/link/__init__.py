"""The connection to the other node: made, proven, greeted, watched."""
