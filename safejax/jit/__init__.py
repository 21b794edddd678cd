"""``safe_jit``: contract, then ledger, then JAX."""
