"""Ways past the guard and the review: each is tried, and documented.

``python tests/threats/_page.py`` writes their tables into the documentation.
"""

from __future__ import annotations

from threats.bypasses import (
    aliases,
    bombs,
    bound,
    caches,
    callbacks,
    codegen,
    config,
    constants,
    introspection,
    later,
    memory,
    posing,
    primitives,
    processes,
    serialization,
    system,
    tampering,
    threads,
)
from threats.bypasses._kit import REGISTERED

FAMILIES = (
    aliases,
    introspection,
    serialization,
    codegen,
    callbacks,
    bound,
    primitives,
    bombs,
    memory,
    constants,
    config,
    threads,
    later,
    caches,
    system,
    processes,
    tampering,
    posing,
)
# As documented: by threat, then by family, then as written.
CORPUS = tuple(
    sorted(
        REGISTERED,
        key=lambda b: (
            b.threat,
            [f.__name__ for f in FAMILIES].index(b.attack.__module__),
        ),
    )
)
