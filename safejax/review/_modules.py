"""Judges a lowered program by the custom calls and transfers in it.

The last look before XLA: whatever a primitive was lowered to, by JAX or by a rule that
somebody registered, what leaves the module leaves it through one of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from safejax import _jax
from safejax.errors import ProgramRejectedError
from safejax.guard._policy import Decision, Policy
from safejax.review import _log
from safejax.review._admitted import strictest

# The LAPACK kernels of jaxlib.lapack; each for single, double and complex numbers.
_REAL_LAPACK = "gees geev gehrd geqp3 geqrf gesdd gesvd getrf gtsv potrf sytrd trsm"
_LAPACK = {
    *(f"lapack_{kind}{n}_ffi" for kind in "sdcz" for n in _REAL_LAPACK.split()),
    *(f"lapack_{kind}{n}_ffi" for kind in "sd" for n in ("orgqr", "ormqr", "syevd")),
    *(f"lapack_{kind}{n}_ffi" for kind in "cz" for n in ("ungqr", "unmqr", "heevd")),
    *(f"lapack_{kind}hetrd_ffi" for kind in "cz"),
}
_SOLVER = "geqrf gesvd gesvdj gesdd getrf orgqr potrf syevd sytrd syrk csrlsvqr"
_GPU = {
    *(f"{kind}solver_{n}_ffi" for kind in ("cu", "hip") for n in _SOLVER.split()),
    *(
        f"{kind}_{n}"
        for kind in ("cu", "hip")
        for n in (
            "lu_pivots_to_permutation", "threefry2x32_ffi", "cholesky_update_ffi",
        )
    ),
    *(
        f"{kind}sparse_{n}_ffi"
        for kind in ("cu", "hip")
        for n in (
            "gtsv2", "coo_todense", "coo_fromdense", "coo_matvec", "coo_matmat",
            "csr_todense", "csr_fromdense", "csr_matvec", "csr_matmat",
        )
    ),
    *(
        f"__cudnn$fmha{n}"
        for n in (
            "Softmax", "ScaleBiasSoftmax", "SoftmaxDropout", "ScaleBiasSoftmaxDropout",
            "SoftmaxBackward", "ScaleBiasSoftmaxBackward", "SoftmaxDropoutBackward",
            "ScaleBiasSoftmaxDropoutBackward", "SoftmaxF8", "SoftmaxBackwardF8",
        )
    ),
    "__cudnn$fusion", "__op$block_scaled_dot",
}  # fmt: skip
_TPU = {
    "Eigh", "Qr", "ProductOfElementaryHouseholderReflectors", "LuDecomposition",
    "Cholesky", "ApproxTopK", "stablehlo.dynamic_approx_top_k", "PartialReduce",
}  # fmt: skip
_COMPILER = {
    "Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape", "LayoutConstraint",
    "annotate_device_placement", "AllocateBuffer", "dce_sink", "shape_assertion",
    "ragged_all_to_all", "cpu_csr_sparse_dense_ffi", "tridiagonal_solve_perturbed_ffi",
    "stablehlo.dynamic_reduce_window", "stablehlo.dynamic_rng_bit_generator",
    "stablehlo.dynamic_top_k", "mhlo.topk", "mhlo.erf", "TopK",
    "all-gather-start", "all-gather-done", "all-to-all-start", "all-to-all-done",
    "all-reduce-start", "all-reduce-done", "reduce-scatter-start",
    "reduce-scatter-done", "collective-permute-start", "collective-permute-done",
}  # fmt: skip
TARGETS = frozenset(_LAPACK | _GPU | _TPU | _COMPILER)

# Ways out of a program that are operations of their own.
_TRANSFERS = frozenset(
    {"stablehlo.infeed", "stablehlo.outfeed", "stablehlo.send", "stablehlo.recv"}
)


def judge_module(module: Any, function: str, policies: Sequence[Policy]) -> None:
    """Refuses custom calls whose targets are not admitted.

    Args:
        module: A StableHLO module.
        function: The name of the function, for the message.
        policies: All must admit; with none, everything is admitted.

    Raises:
        ProgramRejectedError: ``SJ402``, with the targets.
    """
    if policies:
        judge_targets(_ways_out(module), function, policies)


def judge_targets(
    targets: Iterable[str], function: str, policies: Sequence[Policy]
) -> None:
    """The same of the targets, and names of transfers, that a module has.

    Raises:
        ProgramRejectedError: ``SJ402``, with those that are refused.
    """
    refused = []
    for target in dict.fromkeys(targets):
        verdict = "allow" if target in TARGETS else _verdict_on(target, policies)
        if verdict == "disallow":
            refused.append(target)
        elif verdict == "log":
            _log.admitted(function, "custom call", target)
    if refused:
        raise ProgramRejectedError(
            f"{function}() refused: custom call of {', '.join(refused)}",
            code="SJ402",
            details={"function": function, "targets": refused},
            hint="a policy admits it with "
            f"Policy(allow_custom_calls={{{', '.join(map(repr, refused))}}})",
        )


def _ways_out(module: Any) -> Iterator[str]:
    for name, target in _jax.custom_calls_of(module, _TRANSFERS):
        if name in _TRANSFERS:
            yield name
        else:
            yield target


def _verdict_on(target: str, policies: Sequence[Policy]) -> Decision:
    return strictest(
        "allow" if target in policy.allow_custom_calls else policy.primitives
        for policy in policies
    )
