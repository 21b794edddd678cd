"""The demo: a model on real data, and attacks on plain JAX and on safejax.

``safejax demo`` starts it. Each half of an attack runs in a process of its own, so
that the time, the memory and the compilations in the table are that half's alone.
"""
