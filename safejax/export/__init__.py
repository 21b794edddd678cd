"""Exported programs in signed files."""
