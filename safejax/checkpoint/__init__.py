"""Checkpoints: trees of arrays in signed files."""
