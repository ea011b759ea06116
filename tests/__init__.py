"""The tests of prl: unit (no root), kernel, system, model, fuzz and vm."""
