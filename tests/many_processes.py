"""Runs a piece of code in several processes that know each other, on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping

PRELUDE = """
import os, sys
import jax
rank, count, port = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(
    f"127.0.0.1:{port}", num_processes=count, process_id=rank,
    heartbeat_timeout_seconds=100,
)
import jax.numpy as jnp, numpy as np, safejax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

def mesh(*shape):
    return Mesh(np.array(jax.devices()).reshape(shape), ("x", "y")[:len(shape)])

def spread(array, mesh, *spec):
    sharding = NamedSharding(mesh, P(*spec))
    return jax.make_array_from_callback(array.shape, sharding, lambda i: array[i])

ring = safejax.KeyRing(safejax.Key(bytes(range(32)), id="test"))
"""


def run(
    code: str, count: int, *, devices: int = 2, options: Mapping[str, str] | None = None
) -> list[tuple[int, str]]:
    """The exit status and the output of each process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        **(options or {}),
    }
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-c",
                PRELUDE + code,
                str(rank),
                str(count),
                str(port),
            ],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [
        (process.returncode, output)
        for process, output in zip(processes, outputs, strict=True)
    ]
