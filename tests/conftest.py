"""What every test relies on: two CPU devices, set before JAX is first imported.

JAX's own settings stay at their defaults: most of these tests compare safejax with
what `jax.jit` does for its users, who run with the defaults.
"""

from __future__ import annotations

import os

DEVICES_FLAG = "--xla_force_host_platform_device_count=2"

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} {DEVICES_FLAG}".strip()
    )
