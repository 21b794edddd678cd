"""Contracts: what a function accepts, checked before JAX is entered."""
