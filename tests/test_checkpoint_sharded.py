"""Checkpoints of several processes: real processes, on the loopback interface."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import many_processes
import numpy as np
import pytest

import safejax

SAVE = """
m = mesh(-1)
w = np.arange(16 * 12, dtype=np.float32).reshape(16, 12)
tree = {
    "w": spread(w, m, "x"),
    "columns": spread(w.astype(jnp.bfloat16), mesh(2, -1), None, "y"),
    "copied": spread(w[0], m),
    "host": np.arange(5),
    "count": 7,
    "key": jax.random.key(3),
    "small": spread(np.arange(8, dtype=np.int8).astype(jnp.int4), m, "x"),
}
path = os.environ["CKPT"]
"""
DO_SAVE = """
safejax.signed_save(path, tree, key=ring, step=int(os.environ.get("STEP", "5")),
                    context="many", timeout_s=60)
print("saved", rank)
"""
LOAD = """
like = {
    "w": jax.ShapeDtypeStruct((16, 12), jnp.float32,
                              sharding=NamedSharding(mesh(-1), P(None, "x"))),
    "columns": jax.ShapeDtypeStruct((16, 12), jnp.bfloat16,
                                    sharding=NamedSharding(mesh(-1), P("x"))),
    "copied": jax.ShapeDtypeStruct((12,), jnp.float32),
    "host": np.zeros(5, np.int64), "count": 0, "key": jax.random.key(0),
    "small": jax.ShapeDtypeStruct((8,), jnp.int4),
}
got = safejax.signed_load(path, key=ring, like=like, context="many", min_step=5)
assert got["w"].sharding == like["w"].sharding
for shard in got["w"].addressable_shards:
    np.testing.assert_array_equal(shard.data, w[shard.index])
for shard in got["columns"].addressable_shards:
    np.testing.assert_array_equal(shard.data, w.astype(jnp.bfloat16)[shard.index])
np.testing.assert_array_equal(got["small"], np.arange(8).astype(jnp.int4))
assert got["count"] == 7 and got["host"].tolist() == [0, 1, 2, 3, 4]
print("loaded", rank)
"""


def all_ended_well(results: list[tuple[int, str]]) -> bool:
    for status, output in results:
        assert status == 0, output
    return True


@pytest.fixture(scope="module")
def ring() -> safejax.KeyRing:
    return safejax.KeyRing(safejax.Key(bytes(range(32)), id="test"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two processes with two devices each."""
    path = tmp_path_factory.mktemp("many") / "model.ckpt"
    code = SAVE + DO_SAVE + LOAD
    assert all_ended_well(many_processes.run(code, 2, options={"CKPT": str(path)}))
    return path


def test_each_process_wrote_its_own_file_and_replicas_once(saved: Path):
    files = sorted(path.name for path in saved.iterdir())
    sizes = [path.stat().st_size for path in saved.glob("shard-*")]

    assert files[0] == "checkpoint.root"
    assert len(files) == 3
    assert sum(sizes) < 8000


def test_one_process_loads_what_two_have_saved(saved: Path, ring: safejax.KeyRing):
    tree = safejax.signed_load(saved, key=ring, context="many")
    w = np.arange(16 * 12, dtype=np.float32).reshape(16, 12)

    np.testing.assert_array_equal(tree["w"], w)
    np.testing.assert_array_equal(tree["columns"], w.astype(jnp.bfloat16))
    np.testing.assert_array_equal(tree["small"], np.arange(8).astype(jnp.int4))
    assert tree["count"] == 7
    assert jax.random.key_data(tree["key"]).tolist() == [0, 3]


def test_selected_leaves_of_many_files(saved: Path, ring: safejax.KeyRing):
    tree = safejax.signed_load(saved, key=ring, context="many", select="co*")

    assert {name for name, leaf in tree.items() if leaf is not None} == {
        "columns",
        "copied",
        "count",
    }


@pytest.mark.slow
def test_four_processes_load_what_two_have_saved_and_save_it_again(
    saved: Path, ring: safejax.KeyRing
):
    options = {"CKPT": str(saved)}
    code = SAVE + LOAD + SAVE + DO_SAVE + LOAD

    assert all_ended_well(many_processes.run(code, 4, devices=1, options=options))
    assert len(list(saved.iterdir())) == 5
    safejax.signed_load(saved, key=ring, context="many", min_step=5)


def test_dead_process_ends_in_an_error_and_the_old_checkpoint_stays(
    tmp_path: Path, ring: safejax.KeyRing
):
    path = tmp_path / "model.ckpt"
    safejax.signed_save(path, {"a": jnp.ones(3)}, key=ring, sharded=True, step=1)
    code = (
        SAVE
        + """
if rank == 1:
    import time; time.sleep(8); os._exit(0)
try:
    safejax.signed_save(path, tree, key=ring, context="many", timeout_s=3)
except safejax.StorageError as error:
    print("refused:", error.message, flush=True)
os._exit(0)
"""
    )
    results = many_processes.run(code, 2, options={"CKPT": str(path)})

    assert "refused: process 1 did not answer in time" in results[0][1]
    assert safejax.signed_load(path, key=ring, min_step=1)["a"].tolist() == [1, 1, 1]


def test_process_that_fails_is_named_to_the_others(tmp_path: Path):
    path = tmp_path / "model.ckpt"
    code = (
        SAVE
        + """
if rank == 1:
    tree["w"] = object()
try:
    safejax.signed_save(path, tree, key=ring, context="many", timeout_s=60)
except safejax.SafeJaxError as error:
    print("refused:", error.code, error.message, flush=True)
"""
    )
    results = many_processes.run(code, 2, options={"CKPT": str(path)})

    assert "SJ505 process 1 could not save" in results[0][1], results[0][1]
    assert "SJ507 can't save w" in results[1][1]
    assert not (path / "checkpoint.root").exists()


# --- one process is enough for these ----------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, ring: safejax.KeyRing) -> Path:
    path = tmp_path / "model.ckpt"
    tree = {"a": np.arange(6.0), "b": jnp.ones((3, 0)), "c": {"d": jnp.ones(())}}
    safejax.signed_save(path, tree, key=ring, sharded=True, step=1)
    return path


def test_every_flipped_byte_of_every_file_is_refused(
    folder: Path, ring: safejax.KeyRing
):
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for at in range(0, len(whole), 7):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises((safejax.SignatureError, safejax.FormatError)):
                safejax.signed_load(folder, key=ring)
        path.write_bytes(whole)
    safejax.signed_load(folder, key=ring)


def test_file_of_an_older_save_can_not_be_put_in_place(
    folder: Path, ring: safejax.KeyRing
):
    """It has a good signature: only the root's list says that it is not meant."""
    (old,) = folder.glob("shard-*")
    kept = old.read_bytes()
    tree = {"a": np.arange(6.0) + 1, "b": jnp.ones((3, 0)), "c": {"d": jnp.ones(())}}
    safejax.signed_save(folder, tree, key=ring, sharded=True, step=2)
    (new,) = folder.glob("shard-*")
    new.write_bytes(kept)

    with pytest.raises(safejax.SignatureError):
        safejax.signed_load(folder, key=ring)


def test_missing_file_is_a_storage_error(folder: Path, ring: safejax.KeyRing):
    next(folder.glob("shard-*")).unlink()

    with pytest.raises(safejax.StorageError):
        safejax.signed_load(folder, key=ring)


def test_older_files_and_leftovers_are_removed_by_the_next_save(
    folder: Path, ring: safejax.KeyRing
):
    (folder / ".shard-x.0123456789abcdef.sj-tmp").write_bytes(b"")
    (folder / "notes.txt").write_text("mine")
    safejax.signed_save(folder, {"a": 1}, key=ring, sharded=True)

    assert len(list(folder.glob("shard-*"))) == 1
    assert (folder / "notes.txt").exists()
    assert len(list(folder.iterdir())) == 3


def test_like_with_a_sharding_over_this_process_devices(
    folder: Path, ring: safejax.KeyRing
):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = {
        "a": np.zeros(6),
        "b": jnp.ones((3, 0)),
        "c": {"d": jax.ShapeDtypeStruct((), jnp.float32, sharding=sharding)},
    }
    tree = safejax.signed_load(folder, key=ring, like=like)

    assert tree["c"]["d"].sharding == sharding
    assert tree["a"].tolist() == [0, 1, 2, 3, 4, 5]


def test_no_overwriting_of_a_folder_where_it_is_not_wanted(
    folder: Path, ring: safejax.KeyRing
):
    with pytest.raises(safejax.StorageError, match="there is a checkpoint"):
        safejax.signed_save(folder, {}, key=ring, sharded=True, overwrite=False)
