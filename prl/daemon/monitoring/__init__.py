"""What prld tells of itself: status, metrics, hooks, and whether this node is safe."""
