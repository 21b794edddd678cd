"""Contracts over trees: prefixes, structure errors, and what the fast path reads."""

from __future__ import annotations

import collections
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from safejax import ContractError, safe_jit, spec

f32 = np.float32
X = np.ones(2, f32)


def refused(f, *args):
    with pytest.raises(ContractError) as caught:
        f(*args)
    return [(v.path, v.rule) for v in caught.value.violations]


def words(f, *args):
    with pytest.raises(ContractError) as caught:
        f(*args)
    (violation,) = caught.value.violations
    return violation.expected, violation.got


class Pair(NamedTuple):
    a: object
    b: object


class Other(NamedTuple):
    a: object
    b: object


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Node:
    w: object
    name: str = dataclasses.field(default="n", metadata={"static": True})


def test_a_leaf_over_a_subtree_applies_to_every_leaf_of_it():
    f = safe_jit(lambda p: 0, contract={"p": {"layers": spec("f32[b]")}})

    for _ in range(2):
        f({"layers": [X, {"w": X, "v": (X,)}, Pair(X, X)]})
        f({"layers": X})
        assert refused(f, {"layers": [X, {"w": X, "v": (np.ones(3, f32),)}]}) == [
            ("p['layers'][1]['v'][0]", "shape")
        ]


def test_none_is_unchecked_but_its_key_is_part_of_the_structure():
    f = safe_jit(lambda p: 0, contract={"p": {"w": spec("f32[2]"), "b": None}})

    for _ in range(3):
        f({"w": X, "b": X})
        f({"w": X, "b": {"any": np.ones(9)}})
        assert refused(f, {"w": X, "other": X}) == [("p", "structure")]
        assert refused(f, {"w": X}) == [("p", "structure")]
        assert refused(f, {"w": X, "b": X, "c": X}) == [("p", "structure")]


def test_a_tree_of_none_alone_still_holds_its_keys():
    f = safe_jit(
        lambda p, x: 0, contract={"p": {"a": None, "b": None}, "x": spec("f32[2]")}
    )

    for _ in range(3):
        f({"a": X, "b": X}, X)
        assert refused(f, {"x": X, "y": X}, X) == [("p", "structure")]


def test_structure_errors_say_which_key_is_missing_or_extra():
    f = safe_jit(lambda p: 0, contract={"p": {"w": spec("f32[2]"), "b": None}})

    assert words(f, {"w": X, "c": X, "d": X}) == (
        "a dict of ['b'], ['w']",
        "one with missing ['b'] and extra ['c'], ['d']",
    )
    assert words(f, [X, X]) == ("a dict of ['b'], ['w']", "a list of [0], [1]")
    assert words(f, X) == ("a dict of ['b'], ['w']", "a ndarray")


def test_a_structure_error_lists_a_bounded_number_of_keys():
    f = safe_jit(lambda p: 0, contract={"p": {"w": spec("f32[2]")}})
    many = {"w": X, **{f"k{i:05}": X for i in range(10_000)}}

    _, got = words(f, many)

    assert got.endswith("and 9992 more")
    assert len(got) < 300
    _, got = words(f, [X] * 10_000)
    assert len(got) < 300


def test_keys_of_mixed_types_are_a_structure_error():
    f = safe_jit(lambda p: 0, contract={"p": {"w": spec("f32[2]")}})

    for _ in range(2):
        f({"w": X})
        assert refused(f, {"w": X, 1: X}) == [("p", "structure")]


@pytest.mark.parametrize(
    ("wanted", "other"),
    [
        ([X, X], (X, X)),
        ((X, X), [X, X]),
        (Pair(X, X), (X, X)),
        ((X, X), Pair(X, X)),
        (Pair(X, X), Other(X, X)),
        ({"a": X, "b": X}, Pair(X, X)),
        ({"a": X, "b": X}, collections.OrderedDict(a=X, b=X)),
        (collections.OrderedDict(a=X, b=X), {"a": X, "b": X}),
        ({"a": X, "b": X}, collections.defaultdict(int, a=X, b=X)),
        (Node(X), {"w": X}),
        ([X, X], [X, X, X]),
        ([X, X], [X]),
        ({"a": X}, {}),
    ],
    ids=lambda v: type(v).__name__ + str(len(jax.tree.leaves(v))),
)
def test_containers_of_another_type_or_size_are_refused_also_after_a_good_one(
    wanted, other
):
    contract = jax.tree.map(lambda _: spec("f32[2]"), wanted)
    f = safe_jit(lambda p: 0, contract={"p": contract})

    for _ in range(3):
        f(wanted)
        assert refused(f, other)[0] == ("p", "structure")


def test_a_leaf_that_becomes_a_container_is_held_leaf_by_leaf():
    f = safe_jit(lambda p: 0, contract={"p": {"w": spec("f32[2]")}})
    wrong = np.ones(3, f32)

    for _ in range(3):
        f({"w": jnp.asarray(X)})
        f({"w": [X, jnp.asarray(X)]})
        assert refused(f, {"w": [X, wrong]}) == [("p['w'][1]", "shape")]
        assert refused(f, {"w": {"v": wrong}}) == [("p['w']['v']", "shape")]
        assert refused(f, {"w": None}) == [("p['w']", "type")]


def test_a_container_that_becomes_a_leaf_is_refused():
    f = safe_jit(lambda p: 0, contract={"p": {"w": [spec("f32[2]")]}})

    for _ in range(3):
        f({"w": [X]})
        assert refused(f, {"w": X}) == [("p['w']", "structure")]


def test_static_fields_of_a_node_are_no_part_of_the_contract_but_of_the_program():
    seen = []

    def named(p):
        seen.append(p.name)
        return 0

    f = safe_jit(named, contract={"p": Node(spec("f32[2]"))})

    f(Node(X, "one"))
    f(Node(X, "two"))
    f(Node(X, "one"))

    assert seen == ["one", "two"]
    assert refused(f, Node(np.ones(3, f32), "one")) == [("p.w", "shape")]


def test_subclasses_of_dict_are_no_dicts_to_jax_nor_to_a_contract():
    class Mine(dict):
        pass

    f = safe_jit(lambda p: 0, contract={"p": {"w": spec("f32[2]")}})

    for _ in range(2):
        f({"w": X})
        assert refused(f, Mine(w=X)) == [("p", "structure")]


def test_keys_that_compare_equal_are_the_same_key_as_in_jax():
    f = safe_jit(lambda p: 0, contract={"p": {1: spec("f32[2]")}})

    for _ in range(2):
        f({1: X})
        f({True: X})
        assert refused(f, {True: np.ones(3, f32)}) == [("p[1]", "shape")]


def test_the_order_of_keys_does_not_matter():
    f = safe_jit(
        lambda p: p["a"],
        contract={"p": {"a": spec("f32[2]"), "b": spec("f32[3]")}},
    )
    y = np.ones(3, f32)

    for _ in range(2):
        f({"a": X, "b": y})
        f({"b": y, "a": X})
        paths = [path for path, _ in refused(f, {"b": X, "a": y})]
        assert paths == ["p['a']", "p['b']"]
    assert f.stats().live == 1


def test_many_structures_in_turn_keep_their_verdicts():
    f = safe_jit(lambda p: 0, contract={"p": spec("f32[2]")})
    bad = np.ones(3, f32)
    good_ones = [{f"k{i}": X} for i in range(20)]

    for _ in range(2):
        for i, good in enumerate(good_ones):
            f(good)
            assert refused(f, {f"k{i}": bad}) == [(f"p['k{i}']", "shape")]


def test_deep_trees_are_checked_to_the_bottom():
    f = safe_jit(lambda p: 0, contract={"p": spec("f32[2]")})

    def deep(leaf):
        for _ in range(400):
            leaf = [leaf]
        return leaf

    for _ in range(2):
        f(deep(X))
        assert refused(f, deep(np.ones(3, f32))) == [("p" + "[0]" * 400, "shape")]


def test_empty_containers_have_no_leaf_to_break_a_rule():
    f = safe_jit(lambda p: 0, contract={"p": {"w": spec("f32[2]"), "e": {}}})

    for _ in range(2):
        f({"w": [], "e": {}})
        f({"w": X, "e": {}})
        assert refused(f, {"w": X, "e": {"q": X}}) == [("p['e']", "structure")]


def test_a_thousand_leaves_are_all_read():
    f = safe_jit(lambda p: 0, contract={"p": spec("f32[2]")})
    good = {f"k{i:04}": jnp.asarray(X) for i in range(1000)}
    f(good)
    f(good)

    for key in ("k0000", "k0500", "k0999"):
        bad = {**good, key: jnp.ones(3)}
        assert refused(f, bad) == [(f"p['{key}']", "shape")]


def test_mixed_sources_in_one_tree_keep_their_verdicts():
    f = safe_jit(lambda p: 0, contract={"p": {"a": spec("f32[]"), "b": spec("i32[]")}})

    for a in (f32(1), np.array(1, f32), jnp.float32(1), 1.0):
        for b in (np.int32(1), np.array(1, np.int32), jnp.int32(1), 1):
            f({"a": a, "b": b})
            assert refused(f, {"a": b, "b": a}) == [
                ("p['a']", "dtype"),
                ("p['b']", "dtype"),
            ]
