"""Debian's kernels, each booted in QEMU with this machine's root: what prl does on them."""
