"""A deterministic simulator of a pair: the real C cores under a virtual clock and seeded faults."""
