"""``safejax keygen``: a new key, in a file or on the standard output."""

from __future__ import annotations

import sys

from safejax.errors import SafeJaxError
from safejax.keys import KeyRing


def run(*, output: str | None, name: str | None, overwrite: bool) -> int:
    """Makes a key.

    Args:
        output: The key file to write; the standard output if None.
        name: The key's name.
        overwrite: Whether the file may stand there already.

    Returns:
        The exit status.
    """
    try:
        ring = KeyRing.generate(id=name)
        if output is None:
            sys.stdout.write(ring.primary.line("primary").reveal().decode())
        else:
            ring.to_file(output, overwrite=overwrite)
            print(f"wrote key {ring.primary.id} to {output}")
    except SafeJaxError as error:
        print(f"safejax keygen: {error}", file=sys.stderr)
        return 2
    return 0
