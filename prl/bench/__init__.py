"""`prlctl bench`: measured against what a user would build instead (SPEC section 9)."""
