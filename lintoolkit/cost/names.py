"""What JAX's op names say: the program's own scopes, and the pass of training."""

import re
from collections.abc import Iterable

# What stands where a name is missing, and for what the lowered program's names cannot cover.
UNSCOPED = "(no scope)"
COMPILER = "(compiler)"
OTHERS = "(other devices and compiler)"

# jnp.einsum names a scope after its equation, as it is written: the arrow may be left out.
_EINSUM = re.compile(r"^(?=.*(?:,|->))[a-zA-Z. ]*(?:,[a-zA-Z. ]*)*(?:->[a-zA-Z. ]*)?$")
# Parts of an op name that JAX adds around what the program itself names.
_WRAPPERS = re.compile(r"^(?:jvp|transpose|vmap|remat|linearize)\((.*)\)$")
_CONTROL = frozenset(
    "while cond closed_call eval_jaxpr checkpoint rematted_computation pjit "
    "custom_jvp_call custom_vjp_call core_call shard_map".split()
)


def phase_of(op_name: str, *, trains: bool) -> str:
    """Which pass of training an op belongs to, by the transformations in its name."""
    op_name = op_name.partition(";")[0]
    if "rematted_computation" in op_name:
        return "recompute"
    if "transpose(" in op_name:
        return "backward"
    if "jvp(" in op_name or not trains:
        return "forward"
    return "optimizer"


def scope_of(op_name: str) -> list[str]:
    """The program's own names on the way to an op, outermost first.

    JAX's wrappers (`jvp`, `transpose`, `vmap`, `jit`), its control-flow names and the
    primitive at the end are left out, and a jitted function that names its scope after itself
    appears once.

    Args:
        op_name: Such as ``"jit(f)/transpose(jvp(block))/while/body/attention/dot_general"``.

    Returns:
        Such as ``["block", "attention"]``.
    """
    names: list[str] = []
    before = ""
    first = op_name.partition(";")[0]  # XLA joins the names of what it merges
    first = first.partition("/call_exported/")[2] or first  # compiled through jax.export
    for part in _split(first)[1:-1]:
        inner = part
        while match := _WRAPPERS.match(inner):
            inner = match[1]
        for name in filter(None, _split(inner)):
            jitted = re.match(r"^p?jit\((.+)\)$", name)
            bare = jitted[1] if jitted else name
            hidden = _EINSUM.match(bare) or (jitted and (bare[0] == "_" or "<" in bare))
            control = bare in _CONTROL or re.match(r"^branch_\d+_fun$", bare)
            loops = before == "while" and bare in ("body", "body_pred")  # others' are their own
            before = bare
            if not control and not loops and not hidden and names[-1:] != [bare]:
                names.append(bare)
    return names


def _split(path: str) -> list[str]:
    """Split at slashes outside parentheses."""
    parts, depth, start = [], 0, 0
    for at, char in enumerate(path):
        depth += (char == "(") - (char == ")")
        if char == "/" and depth == 0:
            parts.append(path[start:at])
            start = at + 1
    return [*parts, path[start:]]


def totals_of(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Totals by name, largest first, without the empty ones."""
    totals: dict[str, int] = {}
    for name, value in pairs:
        totals[name] = totals.get(name, 0) + value
    ranked = sorted(totals.items(), key=lambda item: -item[1])
    return {name: value for name, value in ranked if value}
