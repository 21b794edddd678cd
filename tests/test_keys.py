"""Keys: what is refused, and that no text about them shows any part of one."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import traceback
from pathlib import Path

import pytest

import safejax
from safejax.keys import Key, KeyRing

SECRET = bytes(range(100, 140))
HEX = SECRET.hex()


def shows_secret(text: str) -> bool:
    """Whether any eight bytes of the secret stand in a text, as such or in hex."""
    forms = (HEX, HEX.upper(), repr(SECRET)[2:-1], str(list(SECRET)))
    return any(
        form[i : i + 12] in text for form in forms for i in range(len(form) - 12)
    )


def full_traceback(error: BaseException) -> str:
    """What a tracker records that prints the variables of every frame of ours."""
    found = traceback.TracebackException.from_exception(error, capture_locals=True)
    ours = [str(frame.locals) for frame in found.stack if "/safejax/" in frame.filename]
    return str(error) + "\n".join(ours)


def test_the_check_for_secrets_fires():
    assert shows_secret(f"key={SECRET!r}")
    assert shows_secret(f"key={HEX}")


@pytest.mark.parametrize(
    "secret", [b"", b"x" * 31, b"\0" * 32, b"ab" * 40, bytes(5000), "text", None, 3]
)
def test_secret_that_is_none_is_refused(secret: object):
    with pytest.raises(safejax.SigningKeyError):
        Key(secret)


@pytest.mark.parametrize("name", ["", "a b", "é", "x" * 33, 'a"', "a\n"])
def test_name_that_would_not_fit_its_field_is_refused(name: str):
    with pytest.raises(safejax.SigningKeyError, match="id"):
        Key(SECRET, id=name)


def test_representations_show_no_secret():
    key = Key(SECRET)
    ring = KeyRing(key)
    texts = [repr(key), str(key), repr(ring), f"{ring}", repr(key.unsafe_secret())]
    texts += [repr(key.__reduce_ex__) + repr(dir(key))]

    assert not any(map(shows_secret, texts))


@pytest.mark.parametrize("make", [lambda: Key(SECRET), lambda: KeyRing(Key(SECRET))])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_pickle_of_a_key(make, protocol: int):
    with pytest.raises(TypeError, match="can't be pickled"):
        pickle.dumps(make(), protocol)


def test_copy_of_a_key_is_the_key():
    key = Key(SECRET)

    assert copy.copy(key) is key
    assert copy.deepcopy({"key": key})["key"] is key


@pytest.mark.parametrize(
    "fail",
    [
        lambda: Key(SECRET[:20] * 100 + SECRET * 60),
        lambda: Key(SECRET, id="not a name"),
        lambda: Key(SECRET[:31]),
        lambda: KeyRing(Key(lambda: SECRET[:31], id="a")).primary.mac("x", [b""]),
    ],
)
def test_tracebacks_of_refused_keys_show_no_secret(fail):
    with pytest.raises(safejax.SigningKeyError) as caught:
        fail()

    assert not shows_secret(full_traceback(caught.value))


@pytest.mark.parametrize(
    "text",
    [
        f"a primary {HEX}\nb primary {HEX}",
        f"a primary {HEX[:-1]}",
        f"a second {HEX}",
        f"a primary {HEX}\na verify {HEX}",
        f"a primary {HEX}\na revoked",
        f"a b primary {HEX}",
        f"{HEX} primary",
        f"a primary {HEX[:40]}",
    ],
)
def test_malformed_key_files_are_refused_and_show_no_secret(text: str, tmp_path: Path):
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(safejax.SigningKeyError) as caught:
        KeyRing.from_file(path)

    assert not shows_secret(full_traceback(caught.value))


def test_key_file_has_roles_comments_and_comes_back(tmp_path: Path):
    path = tmp_path / "key"
    path.write_text(
        f"# ours\n\nnew primary {HEX}  # 2026\nold verify {HEX}\nx revoked\n"
    )
    path.chmod(0o600)
    ring = KeyRing.from_file(path)
    ring.to_file(tmp_path / "again")
    again = KeyRing.from_file(tmp_path / "again")

    assert ring.ids == ("new", "old")
    assert ring.revoked == {"x"}
    assert repr(again) == repr(ring)
    assert (tmp_path / "again").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_key_file_that_others_may_use_is_refused(tmp_path: Path, mode: int):
    path = tmp_path / "key"
    path.write_text(HEX)
    path.chmod(mode)

    with pytest.raises(safejax.SigningKeyError, match=f"mode {mode:04o}"):
        KeyRing.from_file(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_key_file_of_another_user_is_refused(tmp_path: Path):
    path = tmp_path / "key"
    path.write_text(HEX)
    path.chmod(0o600)
    os.chown(path, 12345, 12345)

    with pytest.raises(safejax.SigningKeyError, match="another user"):
        KeyRing.from_file(path)


def test_key_file_that_is_a_link_or_a_folder_is_refused(tmp_path: Path):
    (tmp_path / "real").write_text(HEX)
    (tmp_path / "real").chmod(0o600)
    (tmp_path / "link").symlink_to(tmp_path / "real")

    for name in ("link", "missing", "."):
        with pytest.raises(safejax.StorageError):
            KeyRing.from_file(tmp_path / name)


def test_environment_variable(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KEY", f"a primary {HEX}; b verify {HEX}")
    assert KeyRing.from_env("KEY").ids == ("a", "b")
    monkeypatch.setenv("KEY", HEX)
    assert KeyRing.from_env("KEY").primary.id == Key(SECRET).id
    monkeypatch.setenv("KEY", "")
    with pytest.raises(safejax.SigningKeyError, match="not set"):
        KeyRing.from_env("KEY")
    monkeypatch.setenv("KEY", f"\udcff {HEX}")
    with pytest.raises(safejax.SigningKeyError) as caught:
        KeyRing.from_env("KEY")
    assert not shows_secret(full_traceback(caught.value))


def test_generated_keys_differ_and_have_names_of_their_own():
    one, other = KeyRing.generate(), KeyRing.generate()

    assert one.ids != other.ids
    assert len(one.primary.unsafe_secret().reveal()) == 32


def test_purposes_have_unrelated_signatures():
    key = Key(SECRET)

    assert key.mac("a", [b"x"]) != key.mac("b", [b"x"])
    assert key.mac("a", [b"x", b"y"]) == key.mac("a", [b"xy"])


def test_known_answers_of_the_derivation():
    """By RFC 5869, so that another language can do it: see the format's document."""
    import hashlib
    import hmac

    root = hmac.new(b"safejax/1", SECRET, hashlib.sha256).digest()
    sub = hmac.new(root, b"mac/checkpoint\x01", hashlib.sha256).digest()

    assert Key(SECRET).mac("checkpoint", [b"m"]) == hmac.digest(sub, b"m", "sha256")


def test_callable_is_asked_once_and_only_when_needed():
    asked = []
    key = Key(lambda: asked.append(1) or SECRET, id="kms")
    assert asked == []
    key.mac("a", [b""])
    key.mac("b", [b""])

    assert asked == [1]
    assert key.mac("a", [b"x"]) == Key(SECRET).mac("a", [b"x"])


def test_callable_needs_a_name():
    with pytest.raises(safejax.SigningKeyError, match="id"):
        Key(lambda: SECRET)


def test_ring_refuses_contradictions():
    a, b = Key(SECRET, id="a"), Key(SECRET, id="a")
    with pytest.raises(safejax.SigningKeyError, match="same id"):
        KeyRing(a, verify=[b])
    with pytest.raises(safejax.SigningKeyError, match="revoked"):
        KeyRing(a, revoked=["a"])
    with pytest.raises(safejax.SigningKeyError, match="digest"):
        KeyRing(a, digest="md5")
    with pytest.raises(TypeError):
        KeyRing(SECRET)


def test_ring_without_a_primary_key_can_not_sign():
    ring = KeyRing(None, verify=[Key(SECRET, id="a")])

    with pytest.raises(safejax.SigningKeyError, match="can't sign"):
        _ = ring.primary
    assert ring.find("a") is not None


def test_logs_show_no_secret(caplog: pytest.LogCaptureFixture):
    key = Key(SECRET)
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("test").warning("%s %r %s", key, KeyRing(key), vars)

    assert not shows_secret(caplog.text)
