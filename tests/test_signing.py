"""The signature: what it covers, and what is said when it fails."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import safejax
from safejax._file_errors import FormatError, SignatureError
from safejax.keys import Key, KeyRing
from safejax.limits import LoadLimits
from safejax.signing import _canonical
from safejax.signing._blob import seal, unseal
from safejax.signing._digests import chunk_bytes_for, count_chunks
from safejax.signing._header import Header, Tensor
from safejax.signing._seal import FAILED, PREAMBLE_BYTES, Draft

RING = KeyRing(Key(bytes(range(32)), id="test"))
LIMITS = LoadLimits()
BLOB = seal(b"some payload", purpose="test", ring=RING, fields={"a": "b"})


def opened(data: bytes, ring: KeyRing = RING, purpose: str = "test") -> bytes:
    return unseal(data, purpose=purpose, ring=ring, limits=LIMITS)[0]


def test_what_was_sealed_comes_back():
    assert unseal(BLOB, purpose="test", ring=RING, limits=LIMITS) == (
        b"some payload",
        {"a": "b"},
    )


def test_every_changed_byte_is_refused():
    for at in range(len(BLOB)):
        for flip in (1, 0x80, 0xFF):
            data = bytearray(BLOB)
            data[at] ^= flip
            with pytest.raises((SignatureError, FormatError)):
                opened(bytes(data))


def test_every_truncation_and_any_addition_is_refused():
    for length in range(len(BLOB)):
        with pytest.raises((SignatureError, FormatError)):
            opened(BLOB[:length])
    with pytest.raises(SignatureError):
        opened(BLOB + b"x")


def test_all_failed_signatures_have_one_text():
    changed = bytearray(BLOB)
    changed[-1] ^= 1
    header = bytearray(BLOB)
    header[8 + PREAMBLE_BYTES + 1] ^= 1
    foreign = seal(b"", purpose="test", ring=KeyRing.generate(id="test"), fields={})
    unknown = seal(b"", purpose="test", ring=KeyRing.generate(id="other"), fields={})
    other = seal(b"", purpose="other", ring=RING, fields={})
    texts = set()
    for data in (bytes(changed), bytes(header), foreign, unknown, other, BLOB + b"x"):
        with pytest.raises(SignatureError) as caught:
            opened(data)
        texts.add(str(caught.value))
        assert caught.value.details == {}

    assert len(texts) == 1
    assert FAILED in texts.pop()


def test_revoked_key_does_not_verify():
    key = RING.primary
    new = Key(bytes(range(50, 90)), id="new")
    assert opened(BLOB, KeyRing(new, verify=[key])) == b"some payload"

    with pytest.raises(SignatureError):
        opened(BLOB, KeyRing(new, revoked=["test"]))
    with pytest.raises(SignatureError):
        opened(BLOB, KeyRing(new))


def test_algorithm_is_the_rings_not_the_files():
    pytest.importorskip("blake3")
    fast = KeyRing(RING.primary, digest="blake3")
    data = seal(b"some payload", purpose="test", ring=fast, fields={})

    assert opened(data, fast) == b"some payload"
    with pytest.raises(FormatError, match="the ring admits sha256"):
        opened(data)
    with pytest.raises(FormatError, match="the ring admits blake3"):
        opened(BLOB, fast)


def test_unknown_version_is_refused_before_anything_else():
    assert BLOB.count(b'"safejax":"1"') == 1

    with pytest.raises(FormatError, match="format version 1"):
        opened(BLOB.replace(b'"safejax":"1"', b'"safejax":"2"'))


@pytest.mark.parametrize("data", [b"", b"x", b"\x80\x04N.", b"\0" * 4096, BLOB[8:]])
def test_what_is_no_signed_file_is_a_format_error(data: bytes):
    with pytest.raises(FormatError):
        opened(data)


def test_header_longer_than_the_limit_is_not_read():
    with pytest.raises(FormatError, match="max_header_bytes=100"):
        unseal(BLOB, purpose="test", ring=RING, limits=LoadLimits(max_header_bytes=100))


def test_data_larger_than_the_limit_is_refused():
    with pytest.raises(FormatError, match="max_data_bytes=11"):
        unseal(BLOB, purpose="test", ring=RING, limits=LoadLimits(max_data_bytes=11))


def signed(text: bytes, size: int) -> bytes:
    """A header with this text, signed as if a key holder had written it."""
    header = Header(
        purpose="test",
        digest="sha256",
        chunk_bytes=1 << 18,
        digests=b"",
        fields={},
        tensors={},
    )
    draft = Draft(header, RING)
    prefix = bytes(draft._body[:PREAMBLE_BYTES])
    body = prefix + text
    body += b" " * (-(8 + len(body)) % 64)
    draft._body = bytearray(body)
    draft._data_bytes = size
    return _signed_body(draft)


def _signed_body(draft: Draft) -> bytes:
    draft._digests_at, draft._digest_bytes = 0, 0
    first = bytes(draft._body)
    out = draft.sign(b"")
    assert out[8 : 8 + 38] == first[:38]
    return out


REST = b'test","digest":"sha256","chunk":"262144","digests":"'
DIGEST = b"0" * 64
HEAD = REST + DIGEST + b'"},'
ENTRY = b'"x":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}'


def entry(old: bytes, new: bytes) -> bytes:
    """A header that is right but for one place in its entry."""
    assert old in ENTRY
    return HEAD + ENTRY.replace(old, new) + b"}"


def start(old: bytes, new: bytes) -> bytes:
    """The same for a place before the entries."""
    assert old in HEAD
    return HEAD.replace(old, new) + ENTRY + b"}"


@pytest.mark.parametrize(
    "text",
    [
        entry(b"[0,4]", b"[0,5]"),
        entry(b"[0,4]", b"[1,5]"),
        entry(b"[0,4]", b"[0,4,4]"),
        entry(b"[4]", b"[4.0]"),
        entry(b"[4]", b"[true]"),
        entry(b"[4]", b"[-4]"),
        entry(b"[4]", b"[" + b"9" * 5000 + b"]"),
        entry(b"[4]", b"[4" + b",1" * 70 + b"]"),
        entry(b"[0,4]", b'[0,4],"a":1'),
        entry(b"U8", b"Q"),
        entry(b'"x":', b'"x": '),
        entry(b'"x"', b'"\\u0078"'),
        entry(b'"x"', b'"\xff"'),
        HEAD + ENTRY + b"," + ENTRY + b"}",
        HEAD + b'"x":NaN}',
        HEAD + b'"x":' + b"[" * 5000 + b"]" * 5000 + b"}",
        start(b'"}', b'","a":1}'),
        start(b'"}', b'","a":"b","a":"b"}'),
        start(DIGEST, DIGEST * 2),
        start(DIGEST, b""),
        start(b"sha256", b"md5"),
        start(b"262144", b"1"),
        start(b"262144", b"0262144"),
        start(b'"chunk"', b'"chunks"'),
        b'test"}}',
        b"test",
    ],
)
def test_even_a_key_holder_can_not_make_the_parser_do_more(text: bytes):
    data = signed(text, 4) + b"abcd"

    with pytest.raises((FormatError, SignatureError)):
        opened(data)


def test_the_forger_of_these_tests_can_sign_what_is_right():
    digest = hashlib.sha256(b"abcd").hexdigest().encode()
    text = entry(b'"x"', b'"payload"').replace(DIGEST, digest)

    assert opened(signed(text, 4) + b"abcd") == b"abcd"


# --- canonical JSON ---------------------------------------------------------------

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('ab\n"\\é'), inner)
    ),
    max_leaves=10,
)


@given(PLAIN)
@settings(max_examples=200, deadline=None)
def test_canonical_text_comes_back_and_has_one_spelling(value: object):
    text = _canonical.encode(value)

    assert _canonical.encode(_canonical.decode(text, "text")) == text
    spaced = json.dumps(value, ensure_ascii=False, indent=1).encode()
    if spaced != text:
        with pytest.raises(FormatError):
            _canonical.decode(spaced, "text")


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":1}', "[1, 2]", "1e2", "1.0e0", "NaN", "Infinity", "-0", "01", "1.",
        '"\\u0061"', '"\\/"', "[1]\n", "\ufeff1", "", "[", "1 2", '"\\ud800"',
        "[" * 100_000, '{"a":' * 50_000, "9" * 10_000, "1E400",
    ],
)  # fmt: skip
def test_other_spellings_are_refused(text: str):
    with pytest.raises(FormatError):
        _canonical.decode(text, "text")


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), {1j: 2}, {"a": {1}}, b"x", "\ud800", object()]
)
def test_what_is_no_plain_data_is_not_written(value: object):
    with pytest.raises(FormatError):
        _canonical.encode(value)


# --- chunks -----------------------------------------------------------------------


@given(st.integers(0, 1 << 45))
@settings(deadline=None)
def test_digests_stay_far_below_the_cap_of_a_header(size: int):
    chunk = chunk_bytes_for(size)

    assert chunk & (chunk - 1) == 0
    assert count_chunks(size, chunk) * 64 <= LoadLimits().max_header_bytes / 2


def test_tensor_with_a_name_that_safetensors_can_not_read_is_not_written():
    header = Header(
        purpose="x",
        digest="sha256",
        chunk_bytes=1 << 18,
        digests=b"",
        fields={},
        tensors={"\ud800": Tensor("U8", (0,), 0, 0)},
    )

    with pytest.raises(FormatError):
        Draft(header, RING)


def test_limits_are_checked():
    with pytest.raises(ValueError, match="max_leaves"):
        safejax.LoadLimits(max_leaves=0)
    with pytest.raises(TypeError, match="max_depth"):
        safejax.LoadLimits(max_depth=1.5)
