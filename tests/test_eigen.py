import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.sparse import BCOO, BCSR
from oracles import assert_agrees, differs, draw

from lintoolkit.eigen import pagerank, power_iteration, top_eigh


def with_eigenvalues(rng, *values):
    """A matrix with these eigenvalues, and its vectors, not at right angles."""
    vectors = np.eye(len(values)) + rng.uniform(-0.2, 0.2, (len(values),) * 2)
    return jnp.asarray(vectors * values @ np.linalg.inv(vectors)), vectors


# The top of a spectrum


def laplacian(n, dtype):
    """Of a path: sparse, its eigenvalues 4 sin(πk / 2n)², near 0 as near as k² / n²."""
    i = np.arange(n - 1)
    side, diagonal = -np.ones(n - 1), np.r_[1, 2 * np.ones(n - 2), 1]
    places = np.r_[np.c_[i, i + 1], np.c_[i + 1, i], np.c_[np.arange(n), np.arange(n)]]
    entries = jnp.asarray(np.r_[side, side, diagonal], dtype)
    return BCOO((entries, jnp.asarray(places)), shape=(n, n))


@pytest.mark.parametrize("end", ["largest", "smallest"])
@pytest.mark.parametrize("n", [307, 601])
def test_eigenvalues_close_together_are_told_apart(end, n):
    k = np.arange(n)[::-1] if end == "largest" else np.arange(n)
    values = 4 * np.sin(np.pi * k / (2 * n)) ** 2
    x = laplacian(n, "float32")
    sign = 1 if end == "largest" else -1
    found = top_eigh(sign * x, rank=5)
    assert found.ok
    np.testing.assert_allclose(sign * found.values, values[:5], atol=4e-6 * 4)
    assert abs(values[4] - values[0]) > 10 * 4e-6 * 4  # control


# power iteration


@pytest.mark.parametrize("value", [5.0, -5.0])
def test_power_iteration_finds_the_eigenvalue_of_largest_magnitude(rng, value):
    matrix, vectors = with_eigenvalues(rng, 1.0, -2.0, value, 0.5, 3.0)
    found = power_iteration(draw(rng, 5), matrix, tol=1e-13)
    assert found.ok
    expected = vectors[:, 2] / np.linalg.norm(vectors[:, 2])
    expected *= np.sign(expected[np.abs(expected).argmax()])
    np.testing.assert_allclose(found.value, value, rtol=1e-12)
    np.testing.assert_allclose(found.vector, expected, atol=1e-12)
    assert found.vector[jnp.abs(found.vector).argmax()] > 0
    assert differs(
        power_iteration(draw(rng, 5), matrix.T, tol=1e-13).vector, expected
    )  # control


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_power_iteration_works_in_float32_at_least(rng, dtype):
    matrix = jnp.exp(draw(rng, 7, 7, dtype=dtype))
    found = power_iteration(draw(rng, 7, dtype=dtype), matrix)
    assert found.ok
    values, vectors = np.linalg.eig(oracles.exact(matrix))
    place = np.abs(values).argmax()
    assert_agrees(found.value, values[place].real)
    assert_agrees(found.vector, np.abs(vectors[:, place]))


def test_all_kinds_of_matrix_are_one_matrix(rng):
    matrix, _ = with_eigenvalues(rng, 4.0, 2.0, -1.0)
    start = draw(rng, 3)
    expected = power_iteration(start, matrix)
    partial = jax.tree_util.Partial(jnp.dot, matrix)
    kinds = (BCOO.fromdense(matrix), BCSR.fromdense(matrix), lambda v: matrix @ v, partial)
    for kind in kinds:
        found = power_iteration(start, kind)
        assert found.iterations == expected.iterations
        np.testing.assert_allclose(found.vector, expected.vector, rtol=1e-12)


@pytest.mark.parametrize("values", [(2.0, -2.0, 1.0), (3.0, 3.0, 1.0)])
def test_of_two_eigenvalues_of_one_magnitude_only_equal_ones_are_found(rng, values):
    matrix, _ = with_eigenvalues(rng, *values)
    found = power_iteration(draw(rng, 3), matrix)
    assert found.ok == (values[0] == values[1])
    if found.ok:
        np.testing.assert_allclose(matrix @ found.vector, 3 * found.vector, atol=1e-4)
    else:
        assert np.isnan(found.value)
        assert np.isnan(found.vector).all()
        assert found.iterations == 1000


def test_a_rotation_has_no_real_eigenvector():
    assert not power_iteration(jnp.array([1.0, 2.0]), jnp.array([[0.0, -1.0], [1.0, 0.0]])).ok


def test_small_and_empty_matrices():
    one = power_iteration(jnp.array([-2.0]), jnp.array([[-4.0]]))
    assert (one.value, one.vector, one.ok) == (-4, 1, True)
    zero = power_iteration(jnp.array([1.0, -2.0]), jnp.zeros((2, 2)))
    assert (zero.value, zero.ok) == (0, True)
    np.testing.assert_allclose(zero.vector, jnp.array([-1.0, 2.0]) / jnp.sqrt(5.0))
    nilpotent = power_iteration(jnp.array([1.0, 1.0]), jnp.array([[0.0, 1.0], [0.0, 0.0]]))
    assert (nilpotent.value, nilpotent.ok) == (0, True)
    np.testing.assert_array_equal(nilpotent.vector, [1, 0])


@pytest.mark.parametrize("scale", [1e-160, 1.0, 1e160])
def test_squares_do_not_leave_the_range(rng, scale):
    matrix, _ = with_eigenvalues(rng, 4.0, 2.0, -1.0)
    found = power_iteration(scale * draw(rng, 3), scale * matrix)
    np.testing.assert_allclose(found.value / scale, 4, rtol=1e-4)
    assert found.ok


def dominant(matrix):
    """Oracle: the value of largest magnitude and its vector, as `power_iteration` signs it."""
    values, vectors = np.linalg.eig(np.asarray(matrix))
    v = vectors[:, np.abs(values).argmax()].real
    return np.append(values[np.abs(values).argmax()].real, v * np.sign(v[np.abs(v).argmax()]))


@pytest.mark.parametrize("kind", ["array", "sparse", "closure", "partial"])
def test_derivatives_are_those_of_the_eigenpair_from_any_start(rng, kind):
    matrix, vectors = with_eigenvalues(rng, 1.0, -4.0, 2.0)
    change = draw(rng, 3, 3)
    start = jnp.asarray(vectors[:, 1])  # found before the first iteration
    kinds = {
        "array": lambda m: m,
        "sparse": lambda m: BCOO.fromdense(m, nse=9),
        "closure": lambda m: lambda v: m @ v,
        "partial": lambda m: jax.tree_util.Partial(jnp.dot, m),
    }

    def pair(m):
        found = power_iteration(start, kinds[kind](m), tol=1e-13)
        return jnp.append(found.value, found.vector)

    step = 1e-5 * np.asarray(change)
    expected = (dominant(matrix + step) - dominant(matrix - step)) / 2e-5
    value, slope = jax.jvp(pair, (matrix,), (change,))
    np.testing.assert_allclose(value, dominant(matrix), atol=1e-12)
    np.testing.assert_allclose(slope, expected, rtol=1e-7)
    back = jax.jacrev(pair)(matrix)
    np.testing.assert_allclose(jnp.einsum("iab,ab->i", back, change), expected, rtol=1e-7)
    many = jax.vmap(jax.grad(lambda m: pair(m)[1]))(jnp.stack([matrix, matrix.T]))
    np.testing.assert_allclose(many[0], back[1], rtol=1e-9)
    # Control: what the one iteration made depends on, it keeps the vector that it has.
    v = start / jnp.linalg.norm(start)
    once = jax.jvp(lambda m: jnp.append(v @ m @ v, v), (matrix,), (change,))[1]
    assert differs(once, expected)


def test_second_derivatives_of_an_eigenvalue_are_those_of_differences(rng):
    matrix, change = with_eigenvalues(rng, 1.0, -4.0, 2.0)[0], draw(rng, 3, 3)
    value = lambda t: power_iteration(jnp.ones(3), matrix + t * change, tol=1e-14).value
    expected = (jax.grad(value)(1e-4) - jax.grad(value)(-1e-4)) / 2e-4
    for twice in (jax.grad(jax.grad(value)), jax.hessian(value)):
        np.testing.assert_allclose(twice(0.0), expected, rtol=1e-5)
    assert abs(expected) > 1e-2  # control


def test_a_repeated_eigenvalue_has_no_derivative(rng):
    change, start = draw(rng, 3, 3), jnp.array([1.0, 2.0, 0.5])
    value = lambda t, m: power_iteration(start, jnp.diag(m) + t * change).value
    slope = jax.jacfwd(value)
    assert np.isnan(slope(0.0, jnp.array([3.0, 3.0, 1.0])))
    assert np.isfinite(slope(0.0, jnp.array([3.0, 2.0, 1.0])))


@pytest.mark.parametrize(("dtype", "entry"), [("float16", 3e4), ("float32", 1.2e38)])
def test_an_eigenvalue_out_of_the_range_is_none(dtype, entry):
    for size, ok in ((entry, False), (entry / 8, True)):
        found = power_iteration(jnp.ones(4, dtype), jnp.full((4, 4), size, dtype))
        assert found.ok == ok
        assert np.isfinite(found.value) == np.isfinite(found.vector).all() == ok


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_what_is_not_finite_is_not_found(rng, bad):
    matrix, _ = with_eigenvalues(rng, 4.0, 2.0, -1.0)
    start = draw(rng, 3)
    matrices = jnp.stack([matrix, matrix.at[1, 2].set(bad)])
    found = jax.vmap(power_iteration, (None, 0))(start, matrices)
    np.testing.assert_array_equal(found.ok, [True, False])
    np.testing.assert_allclose(found.value[0], 4, rtol=1e-4)
    assert np.isnan(found.vector[1]).all()
    assert not power_iteration(jnp.zeros(3), matrix).ok
    assert not power_iteration(start.at[0].set(bad), matrix).ok


# PageRank


def google(sources, targets, n, damping, p):
    """Oracle: the dense matrix of the surfer's chances, column by column."""
    chances = np.zeros((n, n))
    for s, t in zip(sources, targets, strict=True):
        chances[t, s] += 1
    for node in range(n):
        links = chances[:, node].sum()
        chances[:, node] = chances[:, node] / links if links else p
    return damping * chances + (1 - damping) * np.outer(p, np.ones(n))


def ranks(sources, targets, n, damping=0.85, p=None):
    """Oracle: solves for the vector that the matrix keeps, and that sums to 1."""
    p = np.full(n, 1 / n) if p is None else np.asarray(p) / np.sum(p)
    matrix = google(np.asarray(sources), np.asarray(targets), n, damping, p)
    keeps = np.concatenate([matrix - np.eye(n), np.ones((1, n))])
    return np.linalg.lstsq(keeps, np.append(np.zeros(n), 1), rcond=None)[0]


def graph(seed, n, edges):
    """Random edges, dense near node 0 and rare elsewhere, with double ones and loops."""
    rng = np.random.default_rng(seed)
    sources, targets = rng.integers(0, n, edges), (n * rng.random(edges) ** 3).astype(int)
    return jnp.asarray(sources), jnp.asarray(targets)


WEB = jnp.array([0, 0, 1, 2, 3, 3]), jnp.array([1, 2, 2, 0, 0, 2])


def test_the_web_of_four_pages():
    found = pagerank(*WEB, 4, tol=1e-12)
    expected = [0.37973431, 0.19888708, 0.38387860, 0.0375]
    np.testing.assert_allclose(found.scores, expected, atol=1e-8)
    matrix = google(*WEB, 4, 0.85, np.full(4, 0.25))
    values, vectors = np.linalg.eig(matrix)
    np.testing.assert_allclose(values.real.max(), 1)
    first = vectors[:, values.real.argmax()].real
    np.testing.assert_allclose(found.scores, first / first.sum(), atol=1e-12)
    power = power_iteration(jnp.ones(4), jnp.asarray(matrix), tol=1e-13).vector
    np.testing.assert_allclose(found.scores, power / power.sum(), atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 999),
    st.sampled_from([(5, 7), (11, 3), (3, 29), (13, 0)]),
    st.floats(0, 0.95),
    st.booleans(),
)
def test_pagerank_is_what_the_dense_matrix_keeps(seed, shape, damping, biased):
    n, edges = shape
    sources, targets = graph(seed, n, edges)
    p = np.random.default_rng(seed).permutation(n) if biased else np.ones(n)
    found = pagerank(
        sources, targets, n, damping=damping, personalization=jnp.asarray(p, float), tol=1e-12
    )
    assert found.ok
    expected = ranks(sources, targets, n, damping, p)
    assert np.abs(found.scores - expected).sum() < 2e-12
    np.testing.assert_allclose(found.scores.sum(), 1)
    assert (found.scores >= 0).all()


@pytest.mark.parametrize(("dtype", "tol"), [("float64", 1e-11), ("float32", 1e-5)])
@pytest.mark.parametrize("shape", [(101, 4999), (97, 199)])  # long runs, and short ones
def test_the_error_is_within_the_tolerance(dtype, tol, shape):
    n, edges = shape
    sources, targets = graph(3, n, edges)
    p = jnp.ones(n, dtype)
    found = pagerank(sources, targets, n, personalization=p, tol=tol)
    expected = ranks(sources, targets, n)
    error = lambda scores: np.abs(oracles.exact(scores) - expected).sum()
    assert found.ok
    assert found.scores.dtype == dtype
    assert error(found.scores) <= tol
    early = pagerank(sources, targets, n, personalization=p, tol=1e-2).scores
    assert tol < error(early) <= 1e-2  # control


def test_the_order_of_edges_and_the_names_of_nodes_do_not_matter(rng):
    n = 101
    sources, targets = graph(5, n, 4999)
    scores = pagerank(sources, targets, n, tol=1e-12).scores
    order, names = rng.permutation(4999), rng.permutation(n)
    again = pagerank(sources[order], targets[order], n, tol=1e-12).scores
    np.testing.assert_allclose(again, scores, rtol=1e-12)
    names = jnp.asarray(names)
    renamed = pagerank(names[sources], names[targets], n, tol=1e-12).scores
    np.testing.assert_allclose(renamed[names], scores, rtol=1e-12)
    assert differs(pagerank(targets, sources, n, tol=1e-12).scores * n, scores * n)  # control


@pytest.mark.parametrize("damping", [0.85, 0.99, 0.999])
def test_pagerank_ends_where_rounding_goes_in_circles(damping):
    # In float32 the iterates of this graph come back to the one before the last, for good.
    edges = np.array([(0, 1), (2, 1), (3, 1), (1, 0), (1, 2)])
    ones = jnp.ones(4, jnp.float32)
    limits = {"damping": damping, "max_iters": 50_000}
    found = pagerank(*edges.T, 4, personalization=ones, **limits)
    exact = pagerank(*edges.T, 4, personalization=ones.astype(float), tol=1e-12, **limits)
    assert found.ok
    eps = np.finfo(np.float32).eps
    apart = np.asarray(found.scores) - np.asarray(exact.scores)
    assert np.abs(apart).sum() <= 4 * eps / (1 - damping)
    assert not pagerank(*edges.T, 4, personalization=ones, damping=damping, max_iters=9).ok


@pytest.mark.parametrize("damping", [0.85, 0.99, 0.999])
def test_slow_is_not_taken_for_done(damping):
    # Two parts of a graph with one link between them, and a surfer who starts in the first.
    i, j = np.nonzero(~np.eye(50, dtype=bool))
    sources, targets = np.r_[i, i + 50, 0], np.r_[j, j + 50, 50]
    start = jnp.zeros(100, jnp.float32).at[0].set(1)
    fit = lambda **options: pagerank(
        sources, targets, 100, damping=damping, personalization=start, **options
    )
    found = fit(max_iters=50_000)
    expected = ranks(sources, targets, 100, damping, np.asarray(start, float))
    apart = np.abs(np.asarray(found.scores, float) - expected).sum()
    assert found.ok
    assert apart <= 8 * np.finfo(np.float32).eps / (1 - damping)
    assert not fit(max_iters=9).ok


@pytest.mark.parametrize("leaves", [999, 4999])
def test_many_links_into_one_node_add_up(leaves):
    hub, others = np.zeros(leaves, int), np.arange(1, leaves + 1)
    edges = np.r_[others, hub], np.r_[hub, others]
    ones = jnp.ones(leaves + 1, jnp.float32)
    found = pagerank(*edges, leaves + 1, personalization=ones)
    share = leaves / (leaves + 1)
    np.testing.assert_allclose(found.scores[0], (1 - share + 0.85 * share) / 1.85, rtol=1e-5)


def test_what_nobody_links_to_gets_the_jumps_alone():
    sources, targets = jnp.array([0, 1, 3]), jnp.array([1, 2, 0])  # node 2 dangles, 3 is unseen
    p = jnp.array([0.1, 0.2, 0.3, 0.4])
    scores = pagerank(sources, targets, 4, personalization=p, tol=1e-13).scores
    np.testing.assert_allclose(scores[3], (0.15 + 0.85 * scores[2]) * p[3], rtol=1e-12)
    matrix = google(sources, targets, 4, 0.85, p)
    matrix[:, 2] -= 0.85 * p  # control: the surfer who stops at a dangling node is lost
    x = p
    for _ in range(200):
        x = matrix @ x
    assert x.sum() < 0.6
    np.testing.assert_allclose(scores.sum(), 1)


def test_where_nothing_leads_on_only_the_jumps_count():
    p = jnp.array([1.0, 2.0, 5.0])
    nothing = jnp.zeros(0, int)
    np.testing.assert_allclose(
        pagerank(nothing, nothing, 3, personalization=p).scores, p / 8, rtol=1e-12
    )
    loops = jnp.arange(3)
    np.testing.assert_allclose(pagerank(loops, loops, 3, personalization=p).scores, p / 8)
    np.testing.assert_allclose(pagerank(*WEB, 4, damping=0.0).scores, 0.25)
    for edges in (nothing, jnp.zeros(1, int)):
        assert pagerank(edges, edges, 1).scores == 1


def test_an_edge_listed_twice_is_two_links():
    sources, targets = jnp.array([0, 0, 0, 1, 2]), jnp.array([1, 1, 2, 0, 0])
    scores = pagerank(sources, targets, 3, tol=1e-12).scores
    np.testing.assert_allclose(scores, ranks(sources, targets, 3), atol=1e-12)
    assert scores[1] > 1.5 * scores[2]


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_the_scale_of_the_personalization_does_not_matter(scale):
    p = jnp.array([1.0, 2.0, 5.0, 3.0])
    scores = pagerank(*WEB, 4, personalization=scale * p).scores
    np.testing.assert_allclose(scores, pagerank(*WEB, 4, personalization=p).scores, rtol=1e-12)


@pytest.mark.parametrize("largest", [1e-37, 1e38, 3e38])
def test_jumps_near_the_ends_of_the_range_are_shares_all_the_same(largest):
    p = jnp.array([1.0, 0.5, 0.25, 0.125], jnp.float32)
    found = pagerank(*WEB, 4, personalization=jnp.float32(largest) * p)
    assert found.ok
    expected = pagerank(*WEB, 4, personalization=p).scores
    np.testing.assert_allclose(found.scores, expected, rtol=1e-6)


def test_traced_values_out_of_range_give_nan_and_spare_their_neighbours():
    sources, targets = WEB
    p = jnp.ones(4)
    good = pagerank(sources, targets, 4)
    nodes = jnp.stack([sources, sources.at[0].set(4), sources.at[1].set(-1)])
    jumps = jnp.stack([p, p.at[2].set(-1), 0 * p, p.at[3].set(jnp.nan), p.at[0].set(jnp.inf)])
    for found in (
        jax.vmap(lambda s: pagerank(s, targets, 4))(nodes),
        jax.vmap(lambda t: pagerank(t, sources, 4))(nodes),
        jax.vmap(lambda p: pagerank(sources, targets, 4, personalization=p))(jumps),
        jax.vmap(lambda d: pagerank(sources, targets, 4, damping=d))(
            jnp.array([0.85, 1.0, -0.1, jnp.nan])
        ),
    ):
        assert found.ok.tolist() == [True] + [False] * (len(found.ok) - 1)
        assert np.isnan(found.scores[1:]).all()
        assert not np.isnan(found.scores[0]).any()
    np.testing.assert_allclose(
        jax.jit(lambda s: pagerank(s, targets, 4))(sources).scores, good.scores, rtol=1e-12
    )


def test_small_integers_number_many_nodes():
    sources, targets = (x.astype(jnp.int8) for x in WEB)
    np.testing.assert_array_equal(
        pagerank(sources, targets, 301).scores, pagerank(*WEB, 301).scores
    )
    far = np.array([0, 1, 200]), np.array([1, 2, 250])  # 1000 - 1 is 231 in uint8
    np.testing.assert_array_equal(
        pagerank(*(x.astype("uint8") for x in far), 1000).scores, pagerank(*far, 1000).scores
    )


def test_too_few_iterations_are_reported():
    found = pagerank(*WEB, 4, max_iters=3)
    assert not found.ok
    assert found.iterations == 3
    assert np.isnan(found.scores).all()


def test_second_derivatives_are_those_of_differences():
    p = jnp.array([1.0, 2.0, 5.0, 3.0])
    top = lambda d: pagerank(*WEB, 4, damping=d, personalization=p, tol=1e-13).scores[2]
    slope = jax.grad(top)
    expected = (slope(0.5 + 1e-5) - slope(0.5 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(slope)(0.5), expected, rtol=1e-7)
    np.testing.assert_allclose(jax.hessian(top)(0.5), expected, rtol=1e-7)
