"""The C datapath, typed: ``programs`` (BPF), ``datapath`` (the loop), ``wire`` (the codec).

Thin: each class owns one C object and turns numbers into enums and -errno into exceptions. The
values of every enum come from the C headers, so that nothing is said twice.
"""
