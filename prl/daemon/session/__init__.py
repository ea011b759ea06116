"""Sessions: protected here, or standing by for the other node, from set-up to end."""
