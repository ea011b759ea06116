"""Real labs under random faults: docs/chaos.md says what is done and what may be lost."""
