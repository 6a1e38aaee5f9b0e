"""What library calls compute: factorisations, solves and whatever users register.

A `custom-call` says its name, its operands and its attributes, not its work. The formulas are
the leading terms of Golub and Van Loan, Matrix Computations, 4th ed. (2013), and of LAPACK
Working Note 41 (1994). Iterative routines (SVD, eigenvalues) have no exact count: theirs are
the customary estimates, and a program that uses them is not `exact`.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from lintoolkit.cost.hlo import Instruction, Shape

Number = int | float


class Call(NamedTuple):
    """A custom call as a pricing rule sees it.

    `attributes` holds the call's scalar attributes, such as ``{"mode": 83}``.
    """

    target: str
    operands: tuple[Shape, ...]
    results: tuple[Shape, ...]
    attributes: dict[str, int]


class Priced(NamedTuple):
    """FLOPs of one call, and whether they are an estimate (of an iterative routine)."""

    flops: Number
    estimate: bool = False


Rule = Callable[[Call], Priced | Number]


def potrf(n: int) -> Number:
    """Cholesky factorisation: n³/3."""
    return n**3 / 3


def getrf(m: int, n: int) -> Number:
    """LU factorisation: m n² - n³/3 for m >= n, sides swapped otherwise."""
    m, n = max(m, n), min(m, n)
    return m * n * n - n**3 / 3


def geqrf(m: int, n: int) -> Number:
    """Householder QR, R alone: 2 m n² - 2 n³/3 for m >= n, sides swapped otherwise."""
    m, n = max(m, n), min(m, n)
    return 2 * m * n * n - 2 * n**3 / 3


def orgqr(m: int, n: int, k: int) -> Number:
    """The first n columns of Q from k reflectors: 4 m n k - 2 (m + n) k² + 4 k³/3."""
    return 4 * m * n * k - 2 * (m + n) * k * k + 4 * k**3 / 3


def ormqr(m: int, n: int, k: int) -> Number:
    """Q times an m x n matrix, Q given by k reflectors: 4 m n k - 2 n k²."""
    return 4 * m * n * k - 2 * n * k * k


def trsm(n: int, right_hand_sides: int) -> Number:
    """Triangular solve: n² for each right-hand side."""
    return n * n * right_hand_sides


def trtri(n: int) -> Number:
    """Inverse of a triangular matrix: n³/3."""
    return n**3 / 3


def syevd(n: int, *, vectors: bool) -> Number:
    """Symmetric eigenvalues 4 n³/3; with vectors 9 n³."""
    return 9 * n**3 if vectors else 4 * n**3 / 3


def geev(n: int, *, vectors: bool) -> Number:
    """Eigenvalues of a general matrix 10 n³; with vectors 25 n³."""
    return 25 * n**3 if vectors else 10 * n**3


def gesdd(m: int, n: int, *, mode: str) -> Number:
    """Singular values (mode N), with thin (S) or full (A) vectors; the cheaper of two roads."""
    m, n = max(m, n), min(m, n)
    if mode == "N":
        return min(2 * m * n * n + 2 * n**3, 4 * m * n * n - 4 * n**3 / 3)
    if mode == "S":
        return min(6 * m * n * n + 20 * n**3, 14 * m * n * n + 8 * n**3)
    return min(4 * m * m * n + 22 * n**3, 4 * m * m * n + 8 * m * n * n + 9 * n**3)


def _sides(call: Call) -> tuple[int, int]:
    rows, columns = call.operands[0].dims[-2:]
    return rows, columns


def _letter(call: Call, name: str, default: str) -> str:
    """LAPACK's one-letter option, stored as its character code."""
    return chr(call.attributes.get(name, ord(default)))


def _mode(call: Call) -> str:
    """How many singular vectors a call computes: A, S or N, in LAPACK's letters."""
    if "mode" in call.attributes:
        return _letter(call, "mode", "S")
    if not call.attributes.get("compute_uv", 1):
        return "N"
    return "A" if call.attributes.get("full_matrices", 0) else "S"


def _trsm(call: Call) -> Number:
    n = _sides(call)[0]
    return trsm(n, call.operands[1].size // (_batch(call) * n))


def _gtsv(call: Call) -> Number:
    """Tridiagonal elimination, then forward and back substitution for each right-hand side."""
    n = call.operands[0].dims[-1]
    return 3 * (n - 1) + (5 * n - 4) * call.operands[3].dims[-1]


def _syevd(call: Call) -> Priced:
    return Priced(syevd(_sides(call)[0], vectors=_letter(call, "mode", "V") == "V"), True)


def _eigh_tpu(call: Call) -> Priced:
    """The four quarters of the matrix go in, the eigenvalues and those of the vectors out."""
    return Priced(syevd(2 * _sides(call)[0], vectors=True), True)


def _geev(call: Call) -> Priced:
    sides = (_letter(call, "compute_left", "N"), _letter(call, "compute_right", "N"))
    either = call.attributes.get("left") or call.attributes.get("right")
    return Priced(geev(_sides(call)[0], vectors=bool(either) or "V" in sides), True)


def _gees(call: Call) -> Priced:
    return Priced(geev(_sides(call)[0], vectors=_letter(call, "mode", "V") == "V"), True)


# The routine's name, without the library's prefix, the dtype letter and "_ffi".
_ROUTINES: dict[str, Rule] = {
    "potrf": lambda c: potrf(_sides(c)[0]),
    "getrf": lambda c: getrf(*_sides(c)),
    "geqrf": lambda c: geqrf(*_sides(c)),
    "orgqr": lambda c: orgqr(*_sides(c), c.operands[1].dims[-1]),
    "ormqr": lambda c: ormqr(c.operands[2].dims[-2], c.operands[2].dims[-1], _sides(c)[1]),
    "trsm": _trsm,
    "trtri": lambda c: trtri(_sides(c)[0]),
    "gehrd": lambda c: 10 * _sides(c)[0] ** 3 / 3,
    "sytrd": lambda c: 4 * _sides(c)[0] ** 3 / 3,
    "gtsv": _gtsv,
    "syevd": _syevd,
    "EighTpu": _eigh_tpu,
    "geev": _geev,
    "gees": _gees,
    "gesdd": lambda c: Priced(gesdd(*_sides(c), mode=_mode(c)), True),
}
_SAME = {
    "ungqr": "orgqr", "unmqr": "ormqr", "heevd": "syevd", "syevj": "syevd", "gesvd": "gesdd",
    "gesvdj": "gesdd", "gesvdp": "gesdd", "hetrd": "sytrd", "gtsv2": "gtsv",
}  # fmt: skip
# Names of their own, on TPU and in CUDA's libraries. Compiled for TPUs a factorisation is
# products between blocks and these calls on each block; the helper inverts a triangle.
_NAMED: dict[str, str] = {
    "Cholesky": "potrf", "LuDecomposition": "getrf", "Qr": "geqrf", "Eigh": "syevd",
    "LuDecompositionBlock": "getrf", "QrDecompositionBlock": "geqrf", "EighTpu": "EighTpu",
    "CompactWyHelper": "trtri", "InvertDiagBlocksLowerTriangular": "trtri",
    "InvertDiagBlocksUpperTriangular": "trtri",
    "ProductOfElementaryHouseholderReflectors": "orgqr", "__cublas$triangularSolve": "trsm",
    "__cusolver$cholesky": "potrf", "cuhybrid_eig_real": "geev", "cuhybrid_eig_comp": "geev",
}  # fmt: skip
_LIBRARY = re.compile(r"^(?:lapack_[sdcz]|cusolver_|hipsolver_|cusparse_|cublas_)(\w+?)_ffi$")

_registered: list[tuple[re.Pattern[str], Rule]] = []


def register_custom_call(pattern: str, rule: Rule) -> None:
    r"""Say what custom calls whose target matches a pattern cost.

    A cost lists calls without a rule under `uncounted`, as "custom-call" and the target's
    name. Rules registered later come first, before the built-in ones.

    Args:
        pattern: A regular expression for the whole target name; a plain name is one too.
        rule: From a `Call` to its FLOPs, or to `Priced(flops, estimate=True)`.

    Raises:
        ValueError: If the pattern is no regular expression.

    Examples:
        >>> register_custom_call("my_kernel", lambda call: 2 * call.operands[0].size)
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"register_custom_call: pattern must be a regular expression, got {pattern!r} "
            f"({error}). Pass re.escape(name) to match a name as it is."
        ) from error
    _registered.insert(0, (compiled, rule))


def price_call(i: Instruction) -> Priced | None:
    """FLOPs of a custom call, complex work in real operations, or None if nobody knows.

    Args:
        i: A `custom-call`.

    Returns:
        The whole batch's FLOPs.

    Raises:
        RuntimeError: If a registered rule fails.
    """
    results = i.shape.parts or (i.shape,)
    attributes = {k: int(v) for k, v in re.findall(r"(\w+) = (-?\d+) :", i.text(43))}
    truths = {k: int(v == "true") for k, v in re.findall(r"(\w+) = (true|false)", i.text(43))}
    operands = tuple(operand.shape for operand in i.operands)
    call = Call(i.target, operands, results, attributes | truths)
    for pattern, rule in _registered:
        if pattern.fullmatch(i.target):
            try:
                found = rule(call)
                known = found if isinstance(found, Priced) else Priced(found)
                round(known.flops)
            except Exception as error:
                raise RuntimeError(
                    f"register_custom_call: the rule {getattr(rule, '__name__', rule)!r} for "
                    f"{pattern.pattern!r} failed on the call {i.target!r} "
                    f"({type(error).__name__}: {error}). It must give a number of FLOPs."
                ) from error
            return known
    library = _LIBRARY.match(i.target)
    name = library[1] if library else _NAMED.get(i.target, "")
    routine = _ROUTINES.get(_SAME.get(name, name))
    if routine is None or not operands:
        return None
    found = routine(call)
    once = found if isinstance(found, Priced) else Priced(found)
    scale = _batch(call) * (4 if operands[0].is_complex else 1)
    return Priced(once.flops * scale, once.estimate)


def _batch(call: Call) -> int:
    """How many matrices the call works on."""
    first = call.operands[0]
    inner = 1 if call.target.endswith(("gtsv_ffi", "gtsv2_ffi")) else 2
    size = 1
    for side in first.dims[:-inner]:
        size *= side
    return size
