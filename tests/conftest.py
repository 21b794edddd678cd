"""What every test relies on: two CPU devices, set before JAX is first imported.

JAX's own settings stay at their defaults: most of these tests compare safejax with
what `jax.jit` does for its users, who run with the defaults.
"""

from __future__ import annotations

import os
import signal

import pytest

DEVICES_FLAG = "--xla_force_host_platform_device_count=2"

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} {DEVICES_FLAG}".strip()
    )

# A shell that starts the suite in the background makes it deaf to Ctrl-C, and so all
# the processes that are started here.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    # The first guard scope of a process shows in tracebacks on Python 3.11: what
    # compares ours with jax.jit's comes before all that opens one.
    items.sort(key=lambda item: not item.path.name.startswith("test_drop_in"))
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(1800))
