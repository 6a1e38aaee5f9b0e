# ruff: noqa: DOC502 (what Raises promises is raised by the checks below)
r"""Any pytree's frozen arrays plus trainable changes of low rank, for any function of them.

With a kernel K of (d_in, d_out), $K' = K + s\, A B$ and so $x K' = x K + s\,(x A) B$: A is
(d_in, r) and touches the input, B is (r, d_out) and the output. The articles and the paper
write $W' = W + s\, B A$ of $W = K^\top$: their A is our A transposed, and so is their B.

Adapters are a plain dict from the path of a leaf to its `LowRank`, beside the parameters:

>>> import jax, jax.numpy as jnp
>>> params = {"up": {"kernel": jnp.ones((5, 7))}, "down": {"kernel": jnp.ones((7, 3))}}
>>> network = lambda params, x: jnp.tanh(x @ params["up"]["kernel"]) @ params["down"]["kernel"]
>>> adapters = init(jax.random.key(0), params, 2, where="kernel")
>>> loss = lambda adapters, x: jnp.sum(lift(network)(params, adapters, x) ** 2)
>>> gradient = jax.jit(jax.grad(loss))(adapters, jnp.ones((1, 5)))  # optax sees these alone
>>> sorted(gradient)
['down/kernel', 'up/kernel']

Paths are `jax.tree_util.keystr` with "/" between. Letters: r rank, n rows, d width.
"""

import math
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, PyTree

from lintoolkit import _checks, _peft, svd
from lintoolkit._jit import jit
from lintoolkit._leaves import (
    Where,
    alike,
    by_path,
    check_adapters,
    chosen_by,
    is_array,
    is_floating,
    layout_of,
    said_of,
)
from lintoolkit._lift import Record, evaluate, watched
from lintoolkit._lowrank import (
    LowRank,
    added,
    array_shape,
    decomposed,
    factor_shapes,
    flat,
    from_svd,
    matrices,
    rank_for,
    rank_limit,
    sizes,
    spread,
)
from lintoolkit.layers import AnyKey

__all__ = [
    "LowRank", "init", "parameters", "merge", "merge_flops", "lift", "lift_flops",
    "explain", "layouts", "extract", "residual", "pissa", "combine", "resize", "fold",
    "save_peft", "load_peft",
]  # fmt: skip
__dir__ = lambda: __all__

Words = str | Mapping[str, str] | Callable[[str], str]  # one for all, by path, or of the path
Ranks = int | Mapping[str, int] | Callable[[str], int]
Numbers = float | int | Mapping[str, float | int] | Callable[[str], float | int]


@_checks.scope("init")
def init(
    key: AnyKey,
    params: PyTree,
    rank: Ranks,
    *,
    where: Where,
    layout: Words | None = None,
    alpha: Numbers | None = None,
    rslora: bool = False,
    init: Words = "kaiming",
    dtype: DTypeLike | None = None,
) -> dict[str, LowRank]:
    r"""Make adapters that change nothing yet.

    $s A B = 0$: the entries of A are uniform in $\pm 1 / \sqrt{d_{in}}$ and B is zero, as in
    PEFT. Each leaf draws from a key of its own path, so that adapting more leaves leaves the
    others' draws alone.

    ``rank``, ``alpha``, ``layout`` and ``init`` are one value for all, a dict whose keys are
    paths or else regular expressions, of which the first found in the path counts, or a
    function of the path.

    Args:
        key: Draws A.
        params: The frozen parameters, any pytree.
        rank: r, at most the rank of the leaf.
        where: Which leaves: a regular expression to find in the path, several, each of which
            must be found somewhere, or a function of path and leaf. Vectors and integers that
            match are left out; flax's biases of heads have two axes: "attention.*kernel".
        layout: One of b, i, o for each axis, see `LowRank`; what `layouts` returns. "i o" if
            None, for matrices.
        alpha: The scale is alpha / r; 1 if None.
        rslora: Scale by alpha / √r.
        init: "kaiming" as above, or "embedding" for tables: A zero and B normal.
        dtype: Of the factors; if None that of the leaf, float32 for half precision.

    Returns:
        A dict from path to `LowRank`.

    Raises:
        TypeError: If ``key`` is not one random key or ``dtype`` is not floating.
        ValueError: If a pattern matches no leaf, a rank is not in 1..the leaf's, a layout does
            not fit or is missing where a leaf is no matrix, or ``init`` is another word.

    Cost:
        r (d_in + d_out) random numbers at most for a matrix.

    Examples:
        >>> adapters = init(jax.random.key(0), {"w": jnp.ones((5, 3))}, 2, where="w", alpha=4)
        >>> adapters["w"].a.shape, adapters["w"].b.shape, adapters["w"].scale
        ((5, 2), (2, 3), 2.0)

    References:
        Hu et al., LoRA: Low-Rank Adaptation of Large Language Models (2021), section 4.1;
        Kalajdzievski, A Rank Stabilization Scaling Factor (2023), for rslora.
    """
    _checks.random_key("init", key)
    adapters = {}
    for path, leaf in chosen_by("init", params, where).items():
        r, kind = said_of("init", "rank", rank, path), said_of("init", "init", init, path)
        words = layout_of("init", layout, path, leaf)
        _check_rank("init", path, r, rank_limit(leaf.shape, words))
        if kind not in ("kaiming", "embedding"):
            raise ValueError(f"init: init must be 'kaiming' or 'embedding', got {kind!r}.")
        of = dtype or _checks.wide(leaf.dtype)
        _checks.float_dtype("init", of)
        own = jax.random.fold_in(key, np.uint32(zlib.crc32(path.encode())))
        shape_a, shape_b = factor_shapes(leaf.shape, words, r)
        scale = _scale(said_of("init", "alpha", alpha, path), r, rslora=rslora)
        if kind == "embedding":
            a, b = jnp.zeros(shape_a, of), jax.random.normal(own, shape_b, of)
        else:
            bound = 1 / math.sqrt(math.prod(sizes(leaf.shape, words)[1]))
            a = jax.random.uniform(own, shape_a, of, minval=-bound, maxval=bound)
            b = jnp.zeros(shape_b, of)
        adapters[path] = LowRank(a, b, scale, words)
    return adapters


def parameters(*, d_in: int, d_out: int, r: int) -> int:
    """Count the numbers of an adapter of one matrix.

    A share r / d_in + r / d_out = 2 r / d of a square matrix's d².

    Args:
        d_in: Rows of the kernel.
        d_out: Columns of it.
        r: Rank of its change.

    Returns:
        r (d_in + d_out).

    Raises:
        ValueError: If one of them is not a whole number of at least 1.

    Cost:
        Nothing.

    Examples:
        >>> parameters(d_in=4096, d_out=4096, r=8), 4096 * 4096
        (65536, 16777216)

    References:
        Hu et al., LoRA: Low-Rank Adaptation of Large Language Models (2021), section 4.2.
    """
    _checks.positive("parameters", d_in=d_in, d_out=d_out, r=r)
    return r * (d_in + d_out)


@_checks.scope("merge")
def merge(
    params: PyTree, adapters: Mapping[str, LowRank], *, scale: float | int | Array = 1.0
) -> PyTree:
    r"""Add every change to its array.

    $K' = K + s\, A B$, summed in float32 at least and rounded once to the array's dtype. There
    is no way back from rounded sums: keep ``params``.

    Args:
        params: The frozen parameters.
        adapters: What `init` returns, or any part of it.
        scale: Of all changes together: -1 takes them away, 0.5 goes half the way.

    Returns:
        Parameters like ``params``; leaves without an adapter are the same objects.

    Raises:
        TypeError: If an adapter is no `LowRank`, or its leaf no floating array.
        ValueError: If there is no leaf of an adapter's path, or their shapes do not fit.

    Cost:
        2 d_in r d_out + d_in d_out + d_in r FLOP a matrix, see `merge_flops`.

    Examples:
        >>> low = LowRank(jnp.array([[1.0], [2.0]]), jnp.array([[3.0, 4.0]]), 0.5)
        >>> print(merge({"w": jnp.zeros((2, 2))}, {"w": low})["w"])
        [[1.5 2. ]
         [3.  4. ]]

    References:
        Hu et al., LoRA: Low-Rank Adaptation of Large Language Models (2021), section 4.1.
    """
    leaves, tree = by_path("merge", params)
    check_adapters("merge", leaves, adapters)
    for path, low in adapters.items():
        share = replace(low, a=low.a * jnp.asarray(scale, low.a.dtype))
        leaves[path] = _merged(leaves[path], share)
    return tree.unflatten(leaves.values())


def merge_flops(*, d_in: int, d_out: int, r: int) -> int:
    """FLOP of `merge` for one matrix.

    Args:
        d_in: Rows of the kernel.
        d_out: Columns of it.
        r: Rank of its change.

    Returns:
        2 d_in r d_out for the product, d_in d_out for the sum and d_in r for the scale.
    """
    return 2 * d_in * r * d_out + d_in * d_out + d_in * r


def lift(fun: Callable[..., Any], *, strict: bool = False) -> Callable[..., Any]:
    r"""Make a function of parameters one of frozen parameters and adapters.

    ``lift(fun)(params, adapters, *args)`` = ``fun(merge(params, adapters), *args)``, but no
    K' is formed, nor its gradient: where ``fun`` multiplies by an array that has an adapter,
    $x K' = x K + s\,(x A) B$. It reads the traced program, so it sees through jit, scan,
    while, cond, remat and vmap, transposes, slices, reshapes and casts of the array; products,
    einsums, convolutions and lookups in tables. Whatever else an array goes into gets K':
    `explain` tells.

    What else is to be trained, a head or biases, is differentiated beside the adapters, as
    part of ``params``.

    It traces ``fun`` on each call: put jit around. Only arrays among the arguments are traced,
    other leaves stay what they are. Scopes of names and remat are kept, but inner jits are
    inlined where an adapted array goes in, and their shardings with them.

    Args:
        fun: A function of parameters, first, and anything else.
        strict: Refuse programs that need K'.

    Returns:
        A function of parameters, adapters and the other arguments; differentiate it with
        respect to the adapters.

    Raises:
        TypeError: If ``fun`` is no function; on a call, as `merge`.
        ValueError: On a call, as `merge`, and under ``strict`` if a K' would be formed.

    Cost:
        2 n (d_in d_out + r (d_in + d_out)) FLOP a product of n rows, see `lift_flops`. Of the
        gradient's products, with respect to adapters, those for the kernels are not there: a
        third of all. Gradients and optimizer states are of the adapters' size; activations
        are what they were.

    Examples:
        >>> low = LowRank(jnp.array([[1.0], [2.0]]), jnp.array([[3.0, 4.0]]))
        >>> dense = lambda params, x: x @ params["w"]
        >>> print(lift(dense)({"w": jnp.zeros((2, 2))}, {"w": low}, jnp.array([1.0, 1.0])))
        [ 9. 12.]

    References:
        Hu et al., LoRA: Low-Rank Adaptation of Large Language Models (2021), section 4.1.
    """
    if not callable(fun):
        raise TypeError(f"lift: fun must be a function of parameters, got {fun!r:.40}.")

    def lifted(
        params: PyTree, adapters: Mapping[str, LowRank], *args: Any, **kwargs: Any
    ) -> PyTree:
        with jax.named_scope("lift"):
            return _lifted(Record(strict), fun, params, adapters, *args, **kwargs)

    return lifted


def lift_flops(*, n: int, d_in: int, d_out: int, r: int) -> int:
    """FLOP of the products of a `lift` of one dense layer.

    Args:
        n: Rows.
        d_in: Rows of the kernel.
        d_out: Columns of it.
        r: Rank of its change.

    Returns:
        2 n d_in d_out of the frozen kernel and 2 n r (d_in + d_out) beside it.
    """
    return 2 * n * (d_in * d_out + r * (d_in + d_out))


def explain(
    fun: Callable[..., Any],
    params: PyTree,
    adapters: Mapping[str, LowRank],
    *args: Any,
    **kwargs: Any,
) -> dict[str, list[str]]:
    """Tell how `lift` evaluates each adapted leaf.

    The program, traced with abstract values, maps each path to what is done: "factored:" and a
    primitive where the factors take part one after the other; the primitive alone where the
    change is added first; "unused" where the leaf does not matter, and so gets no gradient.

    Args:
        fun: As for `lift`.
        params: The frozen parameters, or their shapes.
        adapters: The adapters, or their shapes.
        args: Further arguments of ``fun``, or their shapes.
        kwargs: And those by name.

    Returns:
        A dict from path to what was found, in order.

    Raises:
        TypeError: As `merge`.
        ValueError: As `merge`.

    Cost:
        A trace; no FLOP.

    Examples:
        >>> params = {"w": jnp.ones((5, 3)), "v": jnp.ones((3, 5))}
        >>> adapters = init(jax.random.key(0), params, 2, where=".")
        >>> def network(params, x):
        ...     return (x @ params["w"]) @ params["v"] + jnp.sum(params["w"] ** 2)
        >>> explain(network, params, adapters, jnp.ones(5))
        {'v': ['factored:dot_general'], 'w': ['factored:dot_general', 'integer_pow']}

    References:
        Hu et al., LoRA: Low-Rank Adaptation of Large Language Models (2021), section 4.1.
    """
    record = Record()
    _program(partial(_lifted, record, fun), params, (adapters, *args), kwargs)
    return {path: record.used.get(path, ["unused"]) for path in adapters}


def layouts(
    fun: Callable[..., Any], params: PyTree, *args: Any, **kwargs: Any
) -> dict[str, str]:
    """Read off a program which axes of its parameters are stacked, in and out.

    It maps each path to words b, i, o as in `LowRank`, by the leaf's first product, lookup or
    convolution: axes that are summed over, or looked up, are in; axes that go along in a
    batch, or that a scan or an index takes apart, are stacked; the others are out.

    Args:
        fun: A function of parameters, first, and anything else.
        params: The parameters, or their shapes.
        args: Further arguments of ``fun``, or their shapes.
        kwargs: And those by name.

    Returns:
        A dict from path to layout, of the leaves that are used as matrices: what `init` takes.

    Raises:
        ValueError: If two leaves have one path.

    Cost:
        A trace; no FLOP.

    Examples:
        >>> params = {"heads": jnp.ones((2, 5, 3, 7)), "out": jnp.ones((11, 21))}
        >>> def network(params, x):
        ...     step = lambda x, w: (x, jnp.einsum("td,dhk->thk", x, w))
        ...     y = jax.lax.scan(step, x, params["heads"])[1]
        ...     return y.reshape(-1, 21) @ params["out"].T
        >>> layouts(network, params, jnp.ones((4, 5)))
        {'heads': 'b i o o', 'out': 'o i'}

    References:
        Hu et al., LoRA: Low-Rank Adaptation of Large Language Models (2021), section 4.1.
    """
    record = Record()

    def observed(params: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        watch = lambda path, leaf: (
            watched(path, leaf) if leaf.ndim > 1 and is_floating(leaf) else leaf
        )
        return _evaluated(record, fun, params, watch, args, kwargs)

    _program(observed, params, args, kwargs)
    return {
        path: record.found[path]
        for path in by_path("layouts", params)[0]
        if path in record.found
    }


@_checks.scope("extract")
def extract(
    base: PyTree,
    tuned: PyTree,
    *,
    where: Where,
    rank: Ranks | None = None,
    energy: float | None = None,
    layout: Words | None = None,
) -> dict[str, LowRank]:
    r"""Find the adapters nearest to what fine-tuning changed.

    $A B = U_r \, \mathrm{diag}(s_r) \, V_r^\top$ of $K_{tuned} - K_{base}$, so that no change
    of the rank is nearer (Eckart–Young); A and B get $\sqrt{s}$ each.

    Args:
        base: Parameters before.
        tuned: Parameters after, alike in structure and shapes.
        where: Which leaves, as for `init`.
        rank: As for `init`; give this or ``energy``.
        energy: The least rank that holds this share of the change's squared norm, in every
            matrix of a stack. Then values are looked at, so not under jit.
        layout: As for `init`.

    Returns:
        Adapters of scale 1; in float32 at least.

    Raises:
        ValueError: If the trees differ, a change is not finite or did not converge, neither or
            both of ``rank`` and ``energy`` are given, or as for `init`.

    Cost:
        A `svd.truncated_svd` of each change for a rank, a full `svd.svd` for energy.

    Examples:
        >>> base = {"w": jnp.zeros((2, 2))}
        >>> tuned = {"w": jnp.array([[3.0, 0.0], [0.0, 1.0]])}
        >>> low = extract(base, tuned, where="w", rank=1)
        >>> print(merge(base, low)["w"].round(4))
        [[3. 0.]
         [0. 0.]]

    References:
        Eckart and Young, The Approximation of One Matrix by Another of Lower Rank (1936).
    """
    _check_one("extract", rank=rank, energy=energy)
    before, after = alike("extract", base, tuned)
    adapters = {}
    for path, leaf in chosen_by("extract", base, where).items():
        words = layout_of("extract", layout, path, leaf)
        wide = _checks.wide(leaf.dtype)
        change = jnp.asarray(after[path], wide) - jnp.asarray(before[path], wide)
        r = None if rank is None else said_of("extract", "rank", rank, path)
        adapters[path] = _nearest("extract", path, change, words, r, energy)
    return adapters


def residual(base: PyTree, tuned: PyTree, adapters: Mapping[str, LowRank]) -> dict[str, float]:
    r"""Measure how much of a change adapters miss.

    $e = \lVert K_{tuned} - K' \rVert_F / \lVert K_{tuned} - K_{base} \rVert_F$, of every leaf
    that changed: 1 where there is no adapter, 0 where all is there, infinite where nothing
    changed but an adapter changes something.

    Args:
        base: Parameters before.
        tuned: Parameters after.
        adapters: What is to bring the one to the other.

    Returns:
        A dict from path to the relative error.

    Raises:
        TypeError: As `merge`.
        ValueError: As `merge`, or if the trees differ.

    Cost:
        `merge` and 4 FLOP a number. Values are looked at, so not under jit.

    Examples:
        >>> base, tuned = {"w": jnp.zeros((2, 2))}, {"w": jnp.diag(jnp.array([4.0, 3.0]))}
        >>> print(f"{residual(base, tuned, extract(base, tuned, where='w', rank=1))['w']:.3f}")
        0.600

    References:
        Eckart and Young, The Approximation of One Matrix by Another of Lower Rank (1936).
    """
    before, after = alike("residual", base, tuned)
    check_adapters("residual", before, adapters)
    errors = {}
    for path, leaf in before.items():
        if not is_floating(leaf):
            continue
        wide = _checks.wide(leaf.dtype)
        old, new = jnp.asarray(leaf, wide), jnp.asarray(after[path], wide)
        merged = _merged(old, adapters[path]) if path in adapters else old
        missed, changed = (float(jnp.linalg.norm((new - x).ravel())) for x in (merged, old))
        if missed or changed:
            errors[path] = missed / changed if changed else math.inf
    return errors


@_checks.scope("pissa")
def pissa(
    params: PyTree,
    rank: Ranks,
    *,
    where: Where,
    layout: Words | None = None,
) -> tuple[PyTree, dict[str, LowRank]]:
    r"""Split arrays into their largest singular triplets, to train, and the rest, to freeze.

    $K = R + A B$ with $A B = U_r \, \mathrm{diag}(s_r) \, V_r^\top$ of K. Where K is in half
    precision R is rounded to it, and the sum is K up to that.

    Args:
        params: Any pytree.
        rank: As for `init`.
        where: As for `init`.
        layout: As for `init`.

    Returns:
        Parameters with R in place of K, and adapters of scale 1.

    Raises:
        ValueError: As for `init`, or if an array is not finite.

    Cost:
        A `svd.truncated_svd` of each array.

    Examples:
        >>> frozen, adapters = pissa({"w": jnp.diag(jnp.array([3.0, 1.0]))}, 1, where="w")
        >>> print(jnp.abs(frozen["w"].round(4)))
        [[0. 0.]
         [0. 1.]]

    References:
        Meng, Wang and Zhang, PiSSA: Principal Singular Values and Singular Vectors Adaptation
        of Large Language Models (2024), section 3.
    """
    leaves, tree = by_path("pissa", params)
    adapters = {}
    for path, leaf in chosen_by("pissa", params, where).items():
        words = layout_of("pissa", layout, path, leaf)
        r, wide = (
            said_of("pissa", "rank", rank, path),
            jnp.asarray(leaf, _checks.wide(leaf.dtype)),
        )
        adapters[path] = low = _nearest("pissa", path, wide, words, r, None)
        leaves[path] = _merged(leaf, replace(low, scale=-1.0))
    return tree.unflatten(leaves.values()), adapters


@_checks.scope("combine")
def combine(
    adapters: Sequence[Mapping[str, LowRank]],
    weights: Sequence[float | int | Array],
    *,
    rank: Ranks | None = None,
    energy: float | None = None,
) -> dict[str, LowRank]:
    r"""Add up the changes of several sets of adapters.

    $A B = \sum_k w_k s_k A_k B_k$: factors side by side, of the ranks' sum R. To fewer, the
    nearest of the rank: with $Q_A R_A = [w_k s_k A_k]$ and $Q_B R_B = [B_k^\top]$ it comes from
    the singular values of the R × R matrix $R_A R_B^\top$, and no d × d matrix is formed.

    Args:
        adapters: The sets; a path may be in some of them alone.
        weights: w, a number for each.
        rank: As for `init`; all of R, exactly, if neither this nor ``energy`` is given.
        energy: The least rank that holds this share of the sum's squared norm, in every matrix
            of a stack. Then values are looked at, so not under jit.

    Returns:
        Adapters of scale 1.

    Raises:
        TypeError: If ``adapters`` is no list of sets, or an adapter no `LowRank`.
        ValueError: If there is not one weight a set, a leaf's layouts or shapes differ, a rank
            is not in 1..R, or both ``rank`` and ``energy`` are given.

    Cost:
        About 4 (d_in + d_out) R² FLOP and the decomposition of an R × R matrix.

    Examples:
        >>> one = {"w": LowRank(jnp.ones((3, 1)), jnp.ones((1, 2)))}
        >>> print(merge({"w": jnp.zeros((3, 2))}, combine([one, one], [2.0, -1.0]))["w"])
        [[1. 1.]
         [1. 1.]
         [1. 1.]]
        >>> combine([one, one], [2.0, -1.0], rank=1)["w"].a.shape
        (3, 1)

    References:
        Golub and Van Loan, Matrix Computations, 4th ed. (2013), sections 2.4 and 5.2.
    """
    if isinstance(adapters, Mapping):
        raise TypeError(
            "combine: adapters must be a list of sets, each a dict from path to LowRank, got "
            "one dict; pass [adapters], or list(adapters.values()) of named sets."
        )
    if len(adapters) != len(weights) or not adapters:
        raise ValueError(
            f"combine: weights must be one number for each set of adapters, got {len(weights)} "
            f"for {len(adapters)}."
        )
    if rank is not None and energy is not None:
        _check_one("combine", rank=rank, energy=energy)
    combined = {}
    for path in dict.fromkeys(path for each in adapters for path in each):
        of = [
            (each[path], w) for each, w in zip(adapters, weights, strict=True) if path in each
        ]
        low = _side_by_side(path, of)
        if rank is not None or energy is not None:
            r = None if rank is None else said_of("combine", "rank", rank, path)
            low = _compressed(path, low, r, energy)
        combined[path] = low
    return combined


@_checks.scope("resize")
def resize(
    adapters: Mapping[str, LowRank],
    *,
    rank: Ranks | None = None,
    energy: float | None = None,
) -> dict[str, LowRank]:
    r"""Bring adapters to a lower rank.

    $A' B' = \sum_{i \le r} s_i u_i v_i^\top$ of $s A B$, the nearest change of the rank.

    Args:
        adapters: Any.
        rank: As for `init`; give this or ``energy``.
        energy: As for `combine`.

    Returns:
        Adapters of scale 1.

    Raises:
        ValueError: If a rank is above the adapter's, or neither or both of ``rank`` and
            ``energy`` are given.

    Cost:
        As `combine`.

    Examples:
        >>> low = LowRank(jnp.diag(jnp.array([3.0, 1.0])), jnp.eye(2))
        >>> print(merge({"w": jnp.zeros((2, 2))}, resize({"w": low}, rank=1))["w"].round(4))
        [[3. 0.]
         [0. 0.]]

    References:
        Eckart and Young, The Approximation of One Matrix by Another of Lower Rank (1936).
    """
    _check_one("resize", rank=rank, energy=energy)
    return combine([adapters], [1.0], rank=rank, energy=energy)


@_checks.scope("fold")
def fold(adapters: Mapping[str, LowRank]) -> dict[str, LowRank]:
    r"""Put the scale into B.

    $B' = s B$, of scale 1: adapters of one shape then share one compiled program, whatever
    their scales were.

    Args:
        adapters: Any.

    Returns:
        Adapters of the same change.

    Raises:
        TypeError: If an adapter is no `LowRank`.

    Cost:
        r d_out FLOP each.

    Examples:
        >>> folded = fold({"w": LowRank(jnp.ones((2, 1)), jnp.ones((1, 2)), 0.5)})
        >>> print(folded["w"].b, folded["w"].scale)
        [[0.5 0.5]] 1.0

    References:
        Hu et al., LoRA: Low-Rank Adaptation of Large Language Models (2021), section 4.1.
    """
    for path, low in adapters.items():
        _check_low("fold", path, low)
    return {
        path: replace(low, b=low.b * low.scale, scale=1.0) for path, low in adapters.items()
    }


def save_peft(
    folder: str | os.PathLike,
    adapters: Mapping[str, LowRank],
    names: Mapping[str, str | Sequence[str]],
    *,
    tables: str = "embedding",
    base_model: str | None = None,
    task_type: str | None = None,
) -> None:
    r"""Write adapters to a folder as Hugging Face's PEFT does.

    ``lora_A.weight`` = Aᵀ (r, in) and ``lora_B.weight`` = Bᵀ (out, r) of each module, axes of
    heads flattened; kernels of layout "i i i o" or "o i i i" are 2-D convolutions. Scales go
    into ``adapter_config.json`` as alpha and its patterns.

    Args:
        folder: Made if it is not there; its two files are replaced, each whole.
        adapters: What to write.
        names: The torch module of each path. A stack has one for each index: a sequence, or
            "layers.{}.q_proj" for the numbers from 0. Paths of one module stand side by side
            on its axis out, in this order, as queries, keys and values do in GPT-2's c_attn.
        tables: A regular expression: paths in which it is found are `torch.nn.Embedding`.
        base_model: Name of the frozen model, for PEFT to find.
        task_type: PEFT's, such as "CAUSAL_LM".

    Raises:
        TypeError: If an adapter is no `LowRank`.
        ValueError: If an adapter has no name or not as many as its stack is high, shares a
            module with a leaf that has no adapter, or has a scale that is not finite.

    Cost:
        One write of the factors.

    Examples:
        >>> import tempfile
        >>> low = LowRank(jnp.ones((5, 1)), jnp.ones((1, 3)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_peft(folder, {"w": low}, {"w": "model.proj"})
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['adapter_config.json', 'adapter_model.safetensors']

    References:
        Mangrulkar et al., PEFT: State-of-the-art Parameter-Efficient Fine-Tuning methods
        (2022), the checkpoint format.
    """
    for path, low in adapters.items():
        _check_low("save_peft", path, low)
        if not math.isfinite(low.scale):
            raise ValueError(f"save_peft: scale of {path} must be finite, got {low.scale}.")
    described = {"base_model_name_or_path": base_model, "task_type": task_type}
    _peft.save(Path(folder), adapters, names, tables, described)


def load_peft(
    folder: str | os.PathLike,
    params: PyTree,
    names: Mapping[str, str | Sequence[str]],
    layout: Words | None = None,
) -> dict[str, LowRank]:
    r"""Read adapters from a folder that Hugging Face's PEFT wrote.

    The inverse of `save_peft`: A = ``lora_A.weight``ᵀ, reshaped to the leaf's axes, and so on.
    The scale is alpha / r, or alpha / √r, by the folder's configuration, patterns included;
    where ranks differ within a stack, the smaller are filled with zeros, and where scales do,
    they go into B.

    Args:
        folder: With ``adapter_model.safetensors`` and ``adapter_config.json``.
        params: The parameters that the adapters are for.
        names: As for `save_peft`; paths whose modules are not in the file are left out.
        layout: As for `init`.

    Returns:
        Adapters in the dtype of the file.

    Raises:
        FileNotFoundError: If the folder or a file is not there.
        ValueError: If a file is corrupt; a tensor is unknown, has no name in ``names`` or is
            not of the shape or rank that params and configuration say; or the configuration
            asks for more than LoRA: DoRA, biases, modules saved whole, another beginning of
            the weights (PiSSA), other kinds of adapters. Nothing is returned then.

    Cost:
        One read of the files.

    Examples:
        >>> import tempfile
        >>> params, names = {"w": jnp.ones((2, 5, 3))}, {"w": "layers.{}.proj"}
        >>> adapters = init(jax.random.key(0), params, 1, where="w", layout="b i o", alpha=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_peft(folder, adapters, names)
        ...     load_peft(folder, params, names, "b i o")["w"].scale
        2.0

    References:
        Mangrulkar et al., PEFT: State-of-the-art Parameter-Efficient Fine-Tuning methods
        (2022), the checkpoint format.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"load_peft: there is no folder {folder}.")
    leaves, _ = by_path("load_peft", params)
    named = {}
    for path in names:
        if path not in leaves:
            raise ValueError(f"load_peft: names has {path}, and params have no such leaf.")
        leaf = leaves[path]
        named[path] = leaf, layout_of("load_peft", layout, path, leaf)
    return _peft.load(Path(folder), named, names)


# Programs


def _lifted(
    record: Record,
    fun: Callable[..., Any],
    params: PyTree,
    adapters: Mapping[str, LowRank],
    *args: Any,
    **kwargs: Any,
) -> PyTree:
    check_adapters("lift", by_path("lift", params)[0], adapters)

    def adapted(path: str, leaf: Any) -> Any:
        if path not in adapters:
            return leaf
        return watched(path, leaf, spread(adapters[path]))

    return _evaluated(record, fun, params, adapted, args, kwargs)


def _evaluated(
    record: Record,
    fun: Callable[..., Any],
    params: PyTree,
    enter: Callable[[str, Any], Any],
    args: tuple,
    kwargs: Mapping[str, Any],
) -> PyTree:
    """Run a function's program with some leaves of its parameters entering as weights."""
    jaxpr, inputs, out = _program(fun, params, args, kwargs)
    leaves = {p: leaf for p, leaf in by_path("lift", params)[0].items() if is_array(leaf)}
    weights = [enter(path, leaf) for path, leaf in leaves.items()]
    results = evaluate(record, jaxpr, [*weights, *inputs[len(weights) :]])
    return out.unflatten([record.plain(result, "the result") for result in results])


def _program(
    fun: Callable[..., Any], params: PyTree, args: tuple, kwargs: Mapping[str, Any]
) -> tuple[Any, list[Any], Any]:
    """The program of a call, the arrays that go in, the structure that comes out."""
    leaves, tree = jax.tree.flatten((params, args, dict(kwargs)))
    traced = [i for i, leaf in enumerate(leaves) if is_array(leaf)]

    def of_arrays(*arrays: Array) -> PyTree:
        every = list(leaves)
        for i, array in zip(traced, arrays, strict=True):
            every[i] = array
        params, args, kwargs = jax.tree.unflatten(tree, every)
        return fun(params, *args, **kwargs)

    inputs = [leaves[i] for i in traced]
    jaxpr, shapes = jax.make_jaxpr(of_arrays, return_shape=True)(*inputs)
    return jaxpr, inputs, jax.tree.structure(shapes)


# One leaf


@jit
def _merged(leaf: Any, low: LowRank) -> Array:
    return added(leaf, spread(low))


def _nearest(
    function: str, path: str, x: Array, layout: str, rank: int | None, energy: float | None
) -> LowRank:
    """The nearest change of a rank to an array, or of the least rank for an energy."""
    if not isinstance(x, jax.core.Tracer) and not jnp.isfinite(x).all():
        raise ValueError(f"{function}: {path} must be finite, got NaN or infinity.")
    stack = matrices(x, layout)
    if rank is None:
        found = jax.vmap(svd.svd)(stack)
        rank = rank_for(found.s, energy)
    else:
        _check_rank(function, path, rank, rank_limit(x.shape, layout))
        found = jax.vmap(partial(svd.truncated_svd, rank=rank))(stack)
    if not isinstance(x, jax.core.Tracer) and not found.ok.all():
        raise ValueError(f"{function}: the decomposition of {path} did not converge.")
    return from_svd(found, rank, x.shape, layout)


def _side_by_side(path: str, of: Sequence[tuple[LowRank, float | int | Array]]) -> LowRank:
    for low, _ in of:
        _check_low("combine", path, low)
    kinds = {(low.layout, array_shape(low)) for low, _ in of}
    if len(kinds) > 1:
        raise ValueError(
            f"combine: adapters of {path} must be of one layout and shape, got {sorted(kinds)}."
        )
    ((layout, shape),) = kinds
    parts = [(flat(low), weight) for low, weight in of]
    a = jnp.concatenate([a * jnp.asarray(w).astype(a.dtype) for (a, _), w in parts], axis=2)
    b = jnp.concatenate([b for (_, b), _ in parts], axis=1)
    shape_a, shape_b = factor_shapes(shape, layout, a.shape[2])
    return LowRank(a.reshape(shape_a), b.reshape(shape_b), 1.0, layout)


def _compressed(path: str, low: LowRank, rank: int | None, energy: float | None) -> LowRank:
    found = decomposed(low)
    if rank is None:
        rank = rank_for(found.s, energy)
    _check_rank("combine", path, rank, found.s.shape[1])
    return from_svd(found, rank, array_shape(low), low.layout)


def _scale(alpha: float | int | None, rank: int, *, rslora: bool) -> float:
    if alpha is None:
        return 1.0
    # Python's, or it would promote what it scales.
    return float(alpha) / float(math.sqrt(rank) if rslora else rank)


# Checks


def _check_rank(function: str, path: str, rank: int, limit: int) -> None:
    if not isinstance(rank, int | np.integer) or not 1 <= rank <= limit:
        raise ValueError(
            f"{function}: rank of {path} must be a whole number in 1..{limit}, got {rank!r}."
        )


def _check_one(function: str, *, rank: Any, energy: float | None) -> None:
    if (rank is None) == (energy is None):
        raise ValueError(
            f"{function}: give rank or energy, one of them, got {rank=}, {energy=}."
        )


def _check_low(function: str, path: str, low: Any) -> None:
    if not isinstance(low, LowRank):
        raise TypeError(f"{function}: adapter {path} must be a LowRank, got {low!r:.40}.")
