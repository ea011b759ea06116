"""Fuzzing: one harness of libFuzzer's a file here, built with sanitizers, each with its corpus.

``python -m tests.fuzz`` (`make fuzz`) runs them for long, ``test_fuzz.py`` for seconds. What a
target keeps between runs is in :data:`KEPT`, which git does not know: the programs, the corpus as
it has grown, and in ``crashes`` the inputs that broke something. Those that mattered are in the
tree, ``tests/fuzz/corpus/TARGET``, next to the seeds that ``python -m tests.fuzz.seeds`` has made.
"""
