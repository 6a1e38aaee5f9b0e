"""A program run again with changed weights, products with the change done by its factors.

The program is a jaxpr. A value that is a weight, or a weight transposed, sliced, reshaped, is a
`Weight`: the frozen array and two factors, which go through the same steps. A product takes the
factors one after the other; what is not known here gets the sum.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Jaxpr, JaxprEqn, Literal
from jaxtyping import Array

from lintoolkit import _checks
from lintoolkit._lowrank import added, owned, squeezed


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("frozen", "parts"),
    meta_fields=("axes", "ndim", "path"),
)
@dataclass
class Weight:
    """Frozen numbers and the factors of their change, spread; no factors when only watched.

    ``axes`` tells of each axis which of the leaf's ``ndim`` it came from.
    """

    frozen: Any
    parts: Any
    axes: tuple[frozenset[int], ...]
    ndim: int
    path: str

    @cached_property
    def merged(self) -> Array:
        return added(self.frozen, (self.parts[0], self.parts[1]))


@dataclass
class Record:
    """What became of the weights: how each was used, and what its axes were found to be."""

    strict: bool = False
    used: dict[str, list[str]] = field(default_factory=dict)
    found: dict[str, str] = field(default_factory=dict)

    def use(self, path: str, how: str) -> None:
        """Note one way in which a weight is used, once."""
        ways = self.used.setdefault(path, [])
        if how not in ways:
            ways.append(how)

    def finds(self, weight: Weight, kinds: Sequence[str]) -> None:
        """Note what kind each axis of a leaf is, by its first use."""
        leaf = ["b"] * weight.ndim  # what was indexed away stays that
        for which in "oi":  # an axis that was split is in if any piece of it is
            for axes, kind in zip(weight.axes, kinds, strict=True):
                for axis in axes if kind == which else ():
                    leaf[axis] = which
        if {"i", "o"} <= set(leaf):
            self.found.setdefault(weight.path, " ".join(leaf))

    def plain(self, value: Any, by: str) -> Any:
        """The value as an array, its change added if it is a weight."""
        if not isinstance(value, Weight):
            return value
        if not value.parts:
            return value.frozen
        self.use(value.path, by)
        if self.strict:
            raise ValueError(
                f"lift: {value.path} goes into {by}, which has no factored form, so its change "
                "would be added to it; leave strict off, or do not adapt this leaf."
            )
        return value.merged


def watched(path: str, leaf: Any, parts: tuple[Array, ...] = ()) -> Weight:
    """A leaf as it enters a program."""
    axes = tuple(frozenset([i]) for i in range(leaf.ndim))
    return Weight(leaf, parts, axes, leaf.ndim, path)


def evaluate(record: Record, jaxpr: Any, args: Sequence[Any]) -> list[Any]:
    """Run a program on arrays and weights; weights may come out."""
    inner, consts = getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ())
    env = dict(zip([*inner.constvars, *inner.invars], [*consts, *args], strict=True))
    read = lambda atom: atom.val if isinstance(atom, Literal) else env[atom]
    for eqn in inner.eqns:
        values = [read(atom) for atom in eqn.invars]
        out = None
        if any(isinstance(value, Weight) for value in values):
            if rule := RULES.get(eqn.primitive.name):
                out = rule(record, eqn, *values)
            if out is None:
                values = [record.plain(value, eqn.primitive.name) for value in values]
        env.update(zip(eqn.outvars, _again(eqn, values) if out is None else out, strict=True))
    return [read(atom) for atom in inner.outvars]


def _again(eqn: JaxprEqn, values: Sequence[Any]) -> list[Array]:
    """One equation as JAX itself runs it: its names, contexts and bind parameters."""
    args = {
        atom: value
        for atom, value in zip(eqn.invars, values, strict=True)
        if not isinstance(atom, Literal)
    }
    alone = _empty().replace(
        invars=list(args), outvars=eqn.outvars, eqns=[eqn], effects=eqn.effects
    )
    return jax.core.eval_jaxpr(alone, [], *args.values())


@cache
def _empty() -> Jaxpr:
    return jax.make_jaxpr(lambda: ())().jaxpr


@contextmanager
def _as_placed(eqn: Any) -> Iterator[None]:
    """The scope names of an equation, and the context that it was written under."""
    try:
        context, scope = eqn.ctx.manager, str(eqn.source_info.name_stack)
    except AttributeError:  # a JAX that keeps them elsewhere
        context, scope = nullcontext(), ""
    with context, jax.named_scope(scope) if scope else nullcontext():
        yield


def _out(eqn: JaxprEqn) -> Any:
    """Shape and dtype of what an equation gives."""
    return eqn.outvars[0].aval


# Steps that a weight passes as a weight


def _moved(
    eqn: JaxprEqn,
    weight: Weight,
    step: Callable[[Array], Array],
    axes: Sequence[frozenset[int]],
    *others: Any,
) -> list[Weight]:
    """The weight after an equation, and each factor after the same step."""
    (frozen,) = _again(eqn, [weight.frozen, *others])
    with _as_placed(eqn):
        parts = tuple(map(step, weight.parts))
    return [replace(weight, frozen=frozen, parts=parts, axes=tuple(axes))]


def _same(_: Record, eqn: JaxprEqn, weight: Weight) -> list[Weight] | None:
    # Conversions too: factors keep their own dtype until they are multiplied.
    if not jnp.issubdtype(_out(eqn).dtype, jnp.floating):
        return None
    return _moved(eqn, weight, lambda part: part, weight.axes)


def _transpose(_: Record, eqn: JaxprEqn, weight: Weight) -> list[Weight]:
    order = eqn.params["permutation"]
    step = lambda part: part.transpose(*order, part.ndim - 1)
    return _moved(eqn, weight, step, [weight.axes[i] for i in order])


def _squeeze(_: Record, eqn: JaxprEqn, weight: Weight) -> list[Weight]:
    lost = eqn.params["dimensions"]
    kept = [axes for i, axes in enumerate(weight.axes) if i not in lost]
    return _moved(eqn, weight, lambda part: part.squeeze(lost), kept)


def _broadcast(_: Record, eqn: JaxprEqn, weight: Weight, *dynamic: Any) -> list[Weight] | None:
    if dynamic:
        return None
    shape, places = eqn.params["shape"], eqn.params["broadcast_dimensions"]
    axes = [frozenset[int]()] * len(shape)
    for i, place in enumerate(places):
        axes[place] = weight.axes[i]

    def step(part: Array) -> Array:
        own = [1] * len(shape)
        for i, place in enumerate(places):
            own[place] = part.shape[i]
        return part.reshape(*own, -1)

    return _moved(eqn, weight, step, axes)


def _reshape(_: Record, eqn: JaxprEqn, weight: Weight, *dynamic: Any) -> list[Weight] | None:
    before, after = weight.frozen.shape, _out(eqn).shape
    if dynamic or eqn.params.get("dimensions") is not None or 0 in before:
        return None
    runs = list(_runs(before, after))
    axes = []
    for old, new in runs:
        axes += [frozenset[int]().union(*weight.axes[old])] * (new.stop - new.start)
    shapes = []
    for part in weight.parts:
        shape: list[int] = []
        for old, new in runs:
            whole = math.prod(part.shape[old])
            if whole not in (1, math.prod(before[old])):
                return None  # axes of both factors become one
            shape += after[new] if whole > 1 else [1] * (new.stop - new.start)
        shapes.append((*shape, part.shape[-1]))
    target = iter(shapes)
    return _moved(eqn, weight, lambda part: part.reshape(next(target)), axes)


def _runs(before: tuple[int, ...], after: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """The shortest runs of axes that a reshape turns into one another."""
    i = j = 0
    while i < len(before) and j < len(after):
        first = i, j
        m, n = before[i], after[j]
        i, j = i + 1, j + 1
        while m != n:
            if m < n:
                m, i = m * before[i], i + 1
            else:
                n, j = n * after[j], j + 1
        yield slice(first[0], i), slice(first[1], j)
    yield slice(i, len(before)), slice(j, len(after))  # axes of length 1


def _slice(_: Record, eqn: JaxprEqn, weight: Weight) -> list[Weight]:
    shape = weight.frozen.shape
    starts, limits = eqn.params["start_indices"], eqn.params["limit_indices"]
    strides = eqn.params["strides"] or (1,) * len(shape)

    def step(part: Array) -> Array:
        own = owned(part, shape)
        every = zip(starts, limits, strides, strict=True)
        return part[tuple(slice(*s) if i in own else slice(None) for i, s in enumerate(every))]

    return _moved(eqn, weight, step, weight.axes)


def _dynamic_slice(_: Record, eqn: JaxprEqn, weight: Any, *starts: Any) -> list[Weight] | None:
    shape, counts = weight.frozen.shape, eqn.params["slice_sizes"]
    if len(starts) != len(shape):
        return None

    def step(part: Array) -> Array:
        for axis in owned(part, shape):
            start = jnp.maximum(
                starts[axis], 0
            )  # the primitive clamps, lax counts from the end
            part = lax.dynamic_slice_in_dim(part, start, counts[axis], axis)
        return part

    return _moved(eqn, weight, step, weight.axes, *starts)


def _scaled(_: Record, eqn: JaxprEqn, x: Any, y: Any) -> list[Weight] | None:
    divides = eqn.primitive.name == "div"
    weight, number = (x, y) if isinstance(x, Weight) else (y, x)
    if isinstance(number, Weight) or np.ndim(number) or (divides and weight is y):
        return None
    (frozen,) = _again(eqn, [v.frozen if v is weight else v for v in (x, y)])
    parts = weight.parts
    if parts:
        number = jnp.asarray(number).astype(parts[1].dtype)
        parts = parts[0], parts[1] / number if divides else parts[1] * number
    return [replace(weight, frozen=frozen, parts=parts)]


def _negative(_: Record, eqn: JaxprEqn, weight: Weight) -> list[Weight]:
    (frozen,) = _again(eqn, [weight.frozen])
    return [
        replace(
            weight, frozen=frozen, parts=(*weight.parts[:1], *(-b for b in weight.parts[1:]))
        )
    ]


def _barrier(_: Record, eqn: JaxprEqn, *values: Any) -> list[Any]:
    frozen = [value.frozen if isinstance(value, Weight) else value for value in values]
    return [
        replace(value, frozen=out) if isinstance(value, Weight) else out
        for value, out in zip(values, _again(eqn, frozen), strict=True)
    ]


def _gather(record: Record, eqn: JaxprEqn, weight: Any, index: Any) -> list[Any] | None:
    """Rows of a table, or matrices of a stack."""
    if not isinstance(weight, Weight):
        return None
    dims, counts = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape, indexed = weight.frozen.shape, dims.start_index_map
    if dims.operand_batching_dims or set(indexed) != set(dims.collapsed_slice_dims):
        return None
    out_ndim = _out(eqn).ndim
    rows = [i for i in range(out_ndim) if i not in dims.offset_dims]
    (frozen,) = _again(eqn, [weight.frozen, index])
    kept = [i for i in range(len(shape)) if i not in indexed]
    if rows and len(kept) == 1:
        kinds = ["i" if i in indexed else "o" for i in range(len(shape))]
        if not weight.parts:
            record.finds(weight, kinds)
            return [frozen]
    parts, has, mode = [], [], eqn.params["mode"]
    for part in weight.parts:
        own = set(owned(part, shape)) & set(indexed)
        if own and own != {i for i in indexed if shape[i] > 1}:
            return None  # it has some of the indexed axes, not all
        has.append(bool(own))
        if not own:
            part = part.squeeze(indexed)
            parts.append(jnp.expand_dims(part, rows))
            continue
        parts.append(
            lax.gather(
                part,
                index,
                lax.GatherDimensionNumbers(
                    (*dims.offset_dims, out_ndim), dims.collapsed_slice_dims, indexed
                ),
                (*(min(n, part.shape[i]) for i, n in enumerate(counts)), part.shape[-1]),
                mode=mode,
                fill_value=0 if mode == lax.GatherScatterMode.FILL_OR_DROP else None,
            )
        )
    axes = [frozenset[int]().union(*(weight.axes[i] for i in indexed))] * out_ndim
    for place, i in zip(dims.offset_dims, kept, strict=True):
        axes[place] = weight.axes[i]
    out = replace(weight, frozen=frozen, parts=tuple(parts), axes=tuple(axes))
    if not rows or not weight.parts or all(has):
        return [out]
    record.use(weight.path, "factored:gather")
    with _as_placed(eqn):
        return [out.merged]


# Products


def _dot(record: Record, eqn: JaxprEqn, x: Any, y: Any) -> list[Array] | None:
    contracted, batch = eqn.params["dimension_numbers"]
    if isinstance(x, Weight):
        weight, other, side = x, y, 0
    else:
        weight, other, side = y, x, 1
    if isinstance(other, Weight):
        return None
    inner, both = contracted[side], batch[side]
    frozen = [v.frozen if v is weight else v for v in (x, y)]
    shape = weight.frozen.shape
    if not weight.parts:
        kind = lambda i: "i" if i in inner else "b" if i in both else "o"
        record.finds(weight, [kind(i) for i in range(len(shape))])
        return _again(eqn, frozen)
    order = _first(weight, inner)
    if order is None:
        return None
    record.use(weight.path, "factored:dot_general")
    # Axes by letters: those of the weight, then those of x alone, then the rank.
    letters = list(range(len(shape), len(shape) + other.ndim))
    for theirs, ours in zip(
        (*contracted[1 - side], *batch[1 - side]), (*inner, *both), strict=True
    ):
        letters[theirs] = ours
    free = [letter for letter in letters if letter not in {*inner, *both}]
    rest = [i for i in range(len(shape)) if i not in {*inner, *both}]
    target = [*both, *(rest + free if side == 0 else free + rest)]
    rank = len(shape) + other.ndim
    first, second = (squeezed(part, owned(part, shape)) for part in order)
    of_first, of_second = ([*owned(part, shape), rank] for part in order)
    summed = set(inner) - set(of_second)
    middle = [k for k in dict.fromkeys([*letters, *of_first]) if k not in summed]
    reached = [k for k in target if k in {*middle, *of_second}]
    absent = [i for i, k in enumerate(target) if k not in reached]
    (out,) = _again(eqn, frozen)
    wide = _checks.wide(out.dtype)
    multiply = partial(
        jnp.einsum, precision=eqn.params["precision"], preferred_element_type=wide
    )
    with _as_placed(eqn):
        first, second = (part.astype(other.dtype) for part in (first, second))
        half = multiply(other, letters, first, of_first, middle).astype(other.dtype)
        more = multiply(half, middle, second, of_second, reached)
        return [(out.astype(wide) + jnp.expand_dims(more, absent)).astype(out.dtype)]


def _first(weight: Weight, inner: Sequence[int]) -> tuple[Array, ...] | None:
    """The factors in the order of multiplication: first the one that ends the most axes."""
    shape = weight.frozen.shape
    own = [set(owned(part, shape)) for part in weight.parts]
    alone = [
        math.prod(shape[i] for i in (mine - theirs) & set(inner))
        for mine, theirs in (own, own[::-1])
    ]
    if (max(alone) == 1 and any(shape[i] > 1 for i in inner)) or not inner:
        return None  # neither shortens the product
    return weight.parts if alone[0] >= alone[1] else weight.parts[::-1]


def _ragged_dot(
    record: Record, eqn: JaxprEqn, x: Any, weight: Any, *groups: Any
) -> list[Array] | None:
    dims = eqn.params["ragged_dot_dimension_numbers"]
    (inner_x, inner), batch = dims.dot_dimension_numbers
    group = dims.rhs_group_dimensions
    if isinstance(x, Weight) or batch != ((), ()) or len(group) != 1 or x.ndim != 2:
        return None
    if any(isinstance(value, Weight) for value in groups):
        return None
    frozen = [x, weight.frozen, *groups]
    shape = weight.frozen.shape
    if tuple(inner_x) != (1,) or len(inner) != 1 or len(shape) != 3:
        return None
    (outer,) = set(range(3)) - {*group, *inner}
    if not weight.parts:
        record.finds(
            weight, ["b" if i in group else "i" if i in inner else "o" for i in range(3)]
        )
        return _again(eqn, frozen)
    order = _first(weight, inner)
    if order is None or any(part.shape[group[0]] != shape[group[0]] for part in order):
        return None
    first, second = order
    if first.shape[outer] != 1 or second.shape[inner[0]] != 1:
        return None
    record.use(weight.path, "factored:ragged_dot_general")
    own = [
        jnp.moveaxis(part.squeeze(i), -1, i) for part, i in ((first, outer), (second, inner[0]))
    ]
    (out,) = _again(eqn, frozen)
    options = {name: eqn.params[name] for name in ("precision", "preferred_element_type")}
    half = x
    with _as_placed(eqn):
        for part in own:
            half = lax.ragged_dot_general(
                half, part.astype(x.dtype), groups[0], dims, **options
            )
            half = half.astype(x.dtype)
        return [out + half.astype(out.dtype)]


def _convolution(record: Record, eqn: JaxprEqn, x: Any, weight: Any) -> list[Array] | None:
    p = eqn.params
    if isinstance(x, Weight) or p["feature_group_count"] > 1 or p["batch_group_count"] > 1:
        return None
    spec = p["dimension_numbers"]
    outer, inner, *window = spec.rhs_spec
    shape = weight.frozen.shape
    if not weight.parts:
        record.finds(weight, ["o" if i == outer else "i" for i in range(len(shape))])
        return _again(eqn, [x, weight.frozen])
    own = [set(owned(part, shape)) for part in weight.parts]
    swap = outer in own[0] or inner in own[1]
    order = weight.parts[::-1] if swap else weight.parts
    own = own[::-1] if swap else own
    if outer in own[0] or inner in own[1] or own[0] & own[1]:
        return None
    record.use(weight.path, "factored:conv_general_dilated")
    (out,) = _again(eqn, [x, weight.frozen])
    half = x
    with _as_placed(eqn):
        for turn, part in enumerate(order):
            # An axis of the window is the business of the factor that has it.
            mine = [(k in own[1]) == bool(turn) for k in window]
            pick = lambda given, none, mine=mine: [
                g if m else none for g, m in zip(given, mine, strict=True)
            ]
            absent = inner if turn else outer
            half = lax.conv_general_dilated(
                half,
                jnp.moveaxis(part.squeeze(absent), -1, absent).astype(x.dtype),
                window_strides=pick(p["window_strides"], 1),
                padding=pick(p["padding"], (0, 0)),
                lhs_dilation=pick(p["lhs_dilation"], 1),
                rhs_dilation=pick(p["rhs_dilation"], 1),
                dimension_numbers=spec if not turn else spec._replace(lhs_spec=spec.out_spec),
                precision=p["precision"],
                preferred_element_type=p["preferred_element_type"],
            ).astype(x.dtype)
        return [out + half.astype(out.dtype)]


# Programs within the program


def _fresh(values: Sequence[Any]) -> list[Any]:
    # What a weight has cached belongs to the program around.
    return [replace(value) if isinstance(value, Weight) else value for value in values]


def _plain(record: Record, values: Sequence[Any], by: str) -> list[Any]:
    return [record.plain(value, by) for value in values]


def _inline(record: Record, eqn: JaxprEqn, *values: Any) -> list[Any]:
    with _as_placed(eqn):
        return evaluate(record, eqn.params["jaxpr"], values)


def _checkpoint(record: Record, eqn: JaxprEqn, *values: Any) -> list[Any]:
    run = lambda *values: _plain(record, evaluate(record, eqn.params["jaxpr"], values), "remat")
    options = {name: eqn.params[name] for name in ("prevent_cse", "policy")}
    with _as_placed(eqn):
        return jax.checkpoint(run, **options)(*_fresh(values))


def _cond(record: Record, eqn: JaxprEqn, index: Any, *values: Any) -> list[Any]:
    branches = [
        lambda *values, branch=branch: _plain(record, evaluate(record, branch, values), "cond")
        for branch in eqn.params["branches"]
    ]
    with _as_placed(eqn):
        return lax.switch(index, branches, *_fresh(values))


def _while(record: Record, eqn: JaxprEqn, *values: Any) -> list[Any]:
    p = eqn.params
    n, m = p["cond_nconsts"], p["body_nconsts"]
    asked, consts, carry = values[:n], values[n : n + m], values[n + m :]

    def step(carry: list[Any]) -> list[Any]:
        out = evaluate(record, p["body_jaxpr"], [*_fresh(consts), *carry])
        return _plain(record, out, "while")

    asks = lambda carry: _plain(
        record, evaluate(record, p["cond_jaxpr"], [*_fresh(asked), *carry]), "while"
    )[0]
    with _as_placed(eqn):
        return lax.while_loop(asks, step, _plain(record, carry, "while"))


def _scan(record: Record, eqn: JaxprEqn, *values: Any) -> list[Any] | None:
    counts = _scan_counts(eqn)
    if counts is None:
        return None
    n, m = counts
    consts, carry, stacks = values[:n], values[n : n + m], values[n + m :]
    # A factor that has the stacked axis is sliced with the weight, one that has not is kept.
    rides = [
        [len(part) == len(stack.frozen) for part in stack.parts]
        if isinstance(stack, Weight)
        else []
        for stack in stacks
    ]
    sliced = [
        (
            stack.frozen,
            [part for part, ride in zip(stack.parts, ride_each, strict=True) if ride],
        )
        if isinstance(stack, Weight)
        else stack
        for stack, ride_each in zip(stacks, rides, strict=True)
    ]

    def inside(stack: Any, ride_each: list[bool], row: Any) -> Any:
        if not isinstance(stack, Weight):
            return row
        frozen, mine = row[0], iter(row[1])
        parts = tuple(
            next(mine) if ride else part[0]
            for part, ride in zip(stack.parts, ride_each, strict=True)
        )
        return replace(stack, frozen=frozen, parts=parts, axes=stack.axes[1:])

    def step(carry: Any, rows: Any) -> tuple[Any, Any]:
        own = [inside(*each) for each in zip(stacks, rides, rows, strict=True)]
        out = evaluate(record, eqn.params["jaxpr"], [*_fresh(consts), *carry, *own])
        plain = _plain(record, out, "scan")
        return plain[:m], plain[m:]

    options = {name: eqn.params[name] for name in ("length", "reverse", "unroll")}
    start: Any = _plain(record, carry, "scan")
    with _as_placed(eqn):
        carried, out = lax.scan(step, start, sliced, **options)
    return [*carried, *out]


def _scan_counts(eqn: JaxprEqn) -> tuple[int, int] | None:
    """How many constants and how many carried values come first, however JAX writes it."""
    p = eqn.params
    if "num_consts" in p:
        return p["num_consts"], p["num_carry"]
    try:  # jax 0.12 keeps three groups of arguments
        consts, carry, _ = (len(list(group)) for group in p["ft_in"].unpack())
    except (KeyError, AttributeError, TypeError, ValueError):
        return None
    return consts, carry


RULES: dict[str, Callable[..., list[Any] | None]] = {
    "broadcast_in_dim": _broadcast,
    "checkpoint": _checkpoint,
    "cond": _cond,
    "conv_general_dilated": _convolution,
    "convert_element_type": _same,
    "copy": _same,
    "copy_p": _same,
    "div": _scaled,
    "dot_general": _dot,
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
    "jit": _inline,
    "mul": _scaled,
    "name": _same,
    "neg": _negative,
    "optimization_barrier": _barrier,
    "pjit": _inline,
    "ragged_dot_general": _ragged_dot,
    "remat": _checkpoint,
    "remat2": _checkpoint,
    "reshape": _reshape,
    "scan": _scan,
    "sharding_constraint": _same,
    "slice": _slice,
    "squeeze": _squeeze,
    "transpose": _transpose,
    "while": _while,
}
