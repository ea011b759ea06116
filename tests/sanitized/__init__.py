"""The tests of the C code once more, with ``prl._core`` built under sanitizers.

``python -m tests.sanitized [PYTEST ARGUMENT...]`` (`make test-sanitizers`) builds the extension
with the address and undefined behaviour sanitizers beside the tree's own, and runs the tests with
it in the other's place, in every Python that they start: ``site/sitecustomize.py`` sees to that.
Without arguments these are the unit tests that call it, and for root two of the kernel's.
"""
