"""Who sends a request: the ways to tell, and what is not believed."""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import re
from collections.abc import Callable, Mapping

from safejax.integrations._problems import Scope

Identify = Callable[[Scope], str | None]

# Names end in logs and metrics: nothing that could break a line or a label.
_NAME = re.compile(r"[A-Za-z0-9._:@/+-]{1,128}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MAX_KEY_BYTES = 512


def by_address(*, trusted_proxies: int = 0) -> Identify:
    """Tells clients apart by the address that the connection comes from.

    An IPv6 client is its network of 64 bits: whoever has one address of it has all.
    ``X-Forwarded-For`` is not looked at unless told: anybody can send it.

    Args:
        trusted_proxies: How many proxies of yours stand in front, each of which
            appends the address it was called from to ``X-Forwarded-For``. The server
            must not have rewritten the client's address already
            (``uvicorn --no-proxy-headers``).

    Returns:
        What ``identify=`` of :class:`SafeJaxMiddleware` takes.

    Raises:
        ValueError: The number is negative.

    Example:
        >>> from safejax.integrations import asgi
        >>> who = asgi.by_address()
        >>> who({"client": ("192.0.2.7", 4711), "headers": []})
        'address:192.0.2.7'
        >>> who({"client": ("2001:db8::1:2:3:4", 4711), "headers": []})
        'address:2001:db8::/64'
    """
    if trusted_proxies < 0:
        raise ValueError(f"by_address() takes 0 proxies or more, got {trusted_proxies}")

    def identify(scope: Scope) -> str | None:
        client = scope.get("client")
        peer = client[0] if client else ""
        if trusted_proxies:
            passed = b",".join(_headers(scope, b"x-forwarded-for")).split(b",")
            if len(passed) >= trusted_proxies:
                told = passed[-trusted_proxies].decode("latin-1").strip()
                return f"address:{_network(told) or _network(peer)}"
        return f"address:{_network(peer)}"

    return identify


def by_header(name: str) -> Identify:
    """Tells clients apart by a header that your gateway sets, and takes from others.

    Use it only where every request comes through that gateway: the header is believed.
    A request without it, with two of it, or with other than 1 to 128 letters, digits
    and ``._:@/+-`` is nobody's and gets 401.

    Args:
        name: The name of the header, as in ``"x-tenant"``.

    Returns:
        What ``identify=`` of :class:`SafeJaxMiddleware` takes.

    Example:
        >>> from safejax.integrations import asgi
        >>> asgi.by_header("X-Tenant")({"headers": [(b"x-tenant", b"team-7")]})
        'team-7'
    """
    wanted = name.lower().encode("ascii")

    def identify(scope: Scope) -> str | None:
        found = _headers(scope, wanted)
        text = found[0].decode("latin-1") if len(found) == 1 else ""
        return text if _NAME.fullmatch(text) else None

    return identify


def by_api_key(tenants: Mapping[str, str]) -> Identify:
    """Tells clients apart by a key, from ``Authorization: Bearer`` or ``X-Api-Key``.

    Only digests are kept, so that no key can leak from here; keys must be random and
    long (``secrets.token_urlsafe()``), because the digest is a fast one. A request
    without a known key is nobody's and gets 401.

    Args:
        tenants: The name of the tenant for each :func:`key_digest`.

    Returns:
        What ``identify=`` of :class:`SafeJaxMiddleware` takes.

    Raises:
        ValueError: A digest or a name is malformed.

    Example:
        >>> from safejax.integrations import asgi
        >>> who = asgi.by_api_key({asgi.key_digest("a long random key"): "team-7"})
        >>> who({"headers": [(b"authorization", b"Bearer a long random key")]})
        'team-7'
        >>> who({"headers": [(b"x-api-key", b"a guess")]}) is None
        True
    """
    known = dict(tenants)
    for digest, name in known.items():
        if not (_DIGEST.fullmatch(digest) and _NAME.fullmatch(name)):
            raise ValueError(
                "by_api_key() takes a mapping from key_digest(key) to a name of 1 to "
                "128 letters, digits and ._:@/+-"
            )

    def identify(scope: Scope) -> str | None:
        sent = _headers(scope, b"x-api-key")
        for value in _headers(scope, b"authorization"):
            scheme, _, token = value.partition(b" ")
            if scheme.lower() == b"bearer":
                sent.append(token.strip())
        if len(sent) != 1 or len(sent[0]) > _MAX_KEY_BYTES:
            return None
        # Nobody can choose a digest: the time of the look-up tells nothing of a key.
        return known.get(hashlib.sha256(sent[0]).hexdigest())

    return identify


def key_digest(key: str) -> str:
    """What :func:`by_api_key` keeps of a key: its SHA-256, in hexadecimal digits.

    Args:
        key: The key as the client sends it.

    Example:
        >>> from safejax.integrations import asgi
        >>> asgi.key_digest("a long random key")[:8]
        'a9f3626e'
    """
    return hashlib.sha256(key.encode()).hexdigest()


def _headers(scope: Scope, name: bytes) -> list[bytes]:
    """The values of one header; ASGI servers send names in lower case."""
    return [value for key, value in scope["headers"] if key == name]


@functools.lru_cache(maxsize=4096)
def _network(address: str) -> str:
    """The address, or the network it stands for; empty where it is none."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
