"""The primitives that a review admits, and what becomes of all others.

A list of what is admitted, not of what is refused: a primitive that a new release of
JAX brings is refused until somebody has read it. A name alone admits nothing, because
anyone can make ``Primitive("add")``: the object must be JAX's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from safejax import _jax
from safejax.guard._policy import DECISIONS, Decision, Policy

# Read in JAX 0.10.2 and 0.12.0.1. Not in here although JAX defines them: callbacks;
# what runs code that JAX has not traced (ffi_call, call_exported, pallas_call and
# its relatives, hijax' call_hi_primitive, custom_partitioning); and `check`, which is
# lowered to a callback under one of JAX's options.
_ELEMENTWISE = """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e
    bitcast_convert_type cbrt ceil clamp clz complex conj convert_element_type copy
    copy_p cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt
    igamma igamma_grad_a igammac imag integer_pow is_finite le le_to lgamma log log1p
    log2 logistic lt lt_to max min mul mulhi ne neg nextafter not one_minus_square or
    polygamma polynomial population_count pow random_gamma real reduce_precision
    regularized_incomplete_beta rem round rsqrt select_and_gather_add select_n
    shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square
    sub tan tanh xor zeros_like zeta
"""
_SHAPE = """
    broadcast broadcast_in_dim broadcast_to concatenate dim_as_value dimension_size
    dynamic_slice dynamic_update_slice empty empty2 expand_dims gather iota
    iota_2x32_shape pad reshape rev scatter scatter-add scatter-max scatter-min
    scatter-mul scatter-sub scatter_add scatter_max scatter_min scatter_mul
    scatter_sub slice split squeeze stack tile transpose unstack
"""
_REDUCTIONS = """
    approx_top_k argmax argmin cumlogsumexp cummax cummin cumprod cumsum reduce
    reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum reduce_window
    reduce_window_max reduce_window_min reduce_window_sum reduce_xor
    select_and_scatter select_and_scatter_add sort top_k
"""
_ALGEBRA = """
    cholesky cholesky_update conv_general_dilated dot_general eig eigh fft geqp3
    geqrf hessenberg householder_product lu lu_pivots_to_permutation ormqr qr
    ragged_dot_general scaled_dot schur svd symmetric_product triangular_solve
    tridiagonal tridiagonal_solve
    dot_product_attention_bwd dot_product_attention_bwd_wrapper
    dot_product_attention_fp8_bwd dot_product_attention_fp8_bwd_wrapper
    dot_product_attention_fp8_fwd dot_product_attention_fp8_fwd_wrapper
    dot_product_attention_fwd dot_product_attention_fwd_wrapper scaled_matmul
    scaled_matmul_wrapper cudnn_fusion
    bcoo_dot_general bcoo_dot_general_sampled bcoo_extract bcoo_fromdense
    bcoo_sort_indices bcoo_spdot_general bcoo_sum_duplicates bcoo_todense
    bcoo_transpose bcsr_dot_general bcsr_extract bcsr_fromdense bcsr_todense
    coo_fromdense coo_matmat coo_matvec coo_spmm coo_spmv coo_todense csr_fromdense
    csr_matmat csr_matvec csr_spmm csr_spmv csr_todense
"""
_RANDOM = """
    philox2x32 philox4x32 random_bits random_clone random_fold_in random_seed
    random_split random_unwrap random_wrap rng_bit_generator rng_uniform
    threefry2x32 threefry4x32
"""
_CONTROL = """
    call checkpoint closed_call composite cond core_call custom_jvp_call
    custom_jvp_call_jaxpr custom_lin custom_linear_solve custom_vjp_call
    custom_vmap_call eval_jaxpr jit linear_call name optimization_barrier pjit
    platform_index remat2 remat_opt run_state scan shape_assertion stop_gradient
    unreachable while
"""
_STATE = """
    accum_grad_in_ref addupdate after_all create_token dce_sink empty_ref free_ref
    freeze from_edtype get new_ref pin swap tie to_edtype unpin
"""
_DEVICES = """
    all_gather all_gather_done all_gather_invariant all_gather_reduced
    all_gather_reduced_start all_gather_start all_to_all all_to_all_done
    all_to_all_start axis_index device_put layout_constraint pbroadcast
    pbroadcast_done pbroadcast_dynamic pbroadcast_start pmax pmin ppermute
    ppermute_done ppermute_start precv preduced psend psum psum2 psum_done
    psum_invariant psum_invariant_start psum_start pvary ragged_all_to_all
    reduce_scatter reduce_scatter_done reduce_scatter_start reduced_vary_cast
    reduced_vary_cast_p relayout reshard shard_map sharding_constraint
    unreduced_pmax unreduced_pmin unreduced_psum unreduced_psum_start
    unreduced_reduce_scatter unreduced_reduce_scatter_start vary_unreduced_cast
    vary_unreduced_cast_p with_memory_space_constraint
"""
ELEMENTWISE = frozenset(_ELEMENTWISE.split())
ADMITTED = ELEMENTWISE.union(
    *(
        names.split()
        for names in (
            _SHAPE, _REDUCTIONS, _ALGEBRA, _RANDOM, _CONTROL, _STATE, _DEVICES,
        )
    )
)  # fmt: skip

# The parameters of these are numbers and names: no program can hide in them.
_PLAIN = (ELEMENTWISE | frozenset((_SHAPE + _REDUCTIONS + _ALGEBRA).split())) - {
    "reduce", "reduce_window", "select_and_scatter", "cudnn_fusion", "approx_top_k",
    *(name for name in _SHAPE.split() if name.startswith("scatter")),
}  # fmt: skip
_plain: set[object] = set()


def is_plain(primitive: Any) -> bool:
    """Whether an equation of this primitive holds no program."""
    if primitive in _plain:
        return True
    if primitive.name not in _PLAIN or not _jax.is_own_primitive(primitive):
        return False
    _plain.add(primitive)  # JAX's own live as long as JAX does
    return True


def is_admitted(primitive: object) -> bool:
    """Whether a primitive stays inside the program, by name and by identity."""
    name = getattr(primitive, "name", None)
    return name in ADMITTED and _jax.is_own_primitive(primitive)


def verdict_on(name: str, policies: Sequence[Policy]) -> Decision:
    """What the policies say of a primitive, or of an effect, that is not admitted.

    One that ``allow_primitives`` names is; for all others the word for the category
    ``primitives`` counts. That of ``callbacks`` is for the guard: it says which APIs
    may be called, not what may stand in a program that is compiled. The strictest of
    the policies wins.
    """
    return strictest(
        "allow" if name in policy.allow_primitives else policy.primitives
        for policy in policies
    )


def strictest(words: Iterable[Decision]) -> Decision:
    """The word that wins."""
    found = set(words)
    for word in reversed(DECISIONS):
        if word in found:
            return word
    return "allow"
