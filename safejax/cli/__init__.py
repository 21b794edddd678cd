"""The ``safejax`` command."""
