"""What newcomers come to do, from the documents alone, each in ten lines of code at most."""

import ast
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse
from jax.experimental import sparse
from jax.sharding import NamedSharding, PartitionSpec
from orbax.checkpoint import CheckpointManager

from lintoolkit import (
    attention,
    eigen,
    factorize,
    layers,
    lora,
    pca,
    regression,
    similarity,
    svd,
    train,
    transformer,
)
from lintoolkit.cost import compare, cost, find_device, linalg, register_custom_call

ADAM = optax.adam(1e-2)
GPT = transformer.GPTConfig(vocabulary=61, context=32, blocks=2, heads=2, width=12)


@pytest.fixture(autouse=True)
def as_installed(as_a_user):
    del as_a_user


def test_price_my_model_on_v5e():
    params = jax.eval_shape(lambda: transformer.init_gpt(jax.random.key(0), GPT))
    tokens = jax.ShapeDtypeStruct((4, 32), "int32")
    priced = cost(transformer.gpt, params, tokens, config=GPT)
    line = priced.roofline("v5e")
    assert priced.matmul_flops >= transformer.gpt_flops(config=GPT, n=4, t=32)
    assert line.bound == "memory"
    assert line.seconds == max(line.compute_seconds, line.memory_seconds)


def test_does_my_training_step_fit_an_h100():
    params = jax.eval_shape(lambda: layers.init_mlp(jax.random.key(0), (4096, 65536, 4096)))
    x = jax.ShapeDtypeStruct((8192, 4096), "float32")
    loss = lambda params, x: layers.mlp(params, x).sum()
    held = cost(jax.grad(loss), params, x).memory.total
    assert 6e9 < held < find_device("H100").memory


def test_count_the_flops_of_a_scan():
    step = lambda h, w: (jnp.tanh(h @ w), None)
    priced = cost(lambda x, ws: jax.lax.scan(step, x, ws)[0], jnp.ones(7), jnp.ones((5, 7, 7)))
    assert priced.matmul_flops == 5 * 2 * 7 * 7
    assert priced.loops[0].trips == 5


def test_which_layer_costs_most():
    def model(params, x):
        for i, layer in enumerate(params):
            with jax.named_scope(f"layer {i}"):
                x = layers.dense(layer, x)
        return x

    params = layers.init_mlp(jax.random.key(0), (3, 5, 97, 2))
    by_layer = cost(model, params, jnp.ones((8, 3))).by_scope()
    assert max(by_layer, key=by_layer.get) == "layer 1"


def test_compare_two_implementations():
    matrix, vector = jnp.ones((64, 64)), jnp.ones(64)
    slow = cost(lambda a, b, x: (a @ b) @ x, matrix, matrix, vector)
    fast = cost(lambda a, b, x: a @ (b @ x), matrix, matrix, vector)
    assert compare(fast, slow).ratios()["products"] == (64**3 + 64**2) / (2 * 64**2)


def test_what_share_of_the_peak_did_my_run_reach():
    x = jnp.ones((512, 512), "bfloat16")
    priced = cost(jnp.matmul, x, x)
    share = priced.mfu(1e-6, "H100")
    assert share == pytest.approx(2 * 512**3 / 1e-6 / find_device("H100").peak["bf16"])


def test_register_the_cost_of_my_custom_kernel(monkeypatch):
    monkeypatch.setattr(linalg, "_registered", [])  # forgets the rule afterwards
    square = lambda x: jax.pure_callback(lambda x: x @ x, x, x)
    (name,) = cost(square, jnp.ones((32, 32))).uncounted
    register_custom_call(name.split()[-1], lambda call: 2 * 32 * call.operands[0].size)
    priced = cost(square, jnp.ones((32, 32)))
    assert priced.flops == 2 * 32**3
    assert priced.exact


def test_attention_with_a_sliding_window():
    q, k, v = jax.random.normal(jax.random.key(0), (3, 64, 2, 8))
    look = lambda v: attention.attention(q, k, v, causal=True, window=4)
    seen = (look(v) != look(v.at[30].set(9.0))).any(axis=(1, 2))
    assert jnp.flatnonzero(seen).tolist() == [30, 31, 32, 33, 34]


def test_pca_of_a_memmap(tmp_path):
    x = np.random.default_rng(0).normal(scale=[9, 5, 1, 1, 1], size=(1000, 5))
    np.save(tmp_path / "rows.npy", x.astype("float32"))
    rows = np.load(tmp_path / "rows.npy", mmap_mode="r")
    fitted = pca.fit_pca_stream(rows, rank=2, chunk_rows=100)
    codes = pca.pca_encode(fitted, jnp.asarray(rows[:10]))
    assert codes.shape == (10, 2)
    variances = np.linalg.eigvalsh(np.cov(x.T))[:-3:-1]
    np.testing.assert_allclose(fitted.explained_variance, variances, rtol=1e-4)


def test_shard_pca_over_devices():
    mesh = jax.make_mesh((jax.device_count(),), ("rows",))
    x = jax.random.normal(jax.random.key(0), (64, 5))
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("rows")))
    np.testing.assert_allclose(
        pca.fit_pca(sharded, rank=2).components, pca.fit_pca(x, rank=2).components, atol=1e-4
    )


def test_svd_of_a_sparse_matrix():
    x = scipy.sparse.random_array((300, 200), density=0.05, rng=0, dtype="float32")
    found = svd.truncated_svd(sparse.BCOO.from_scipy_sparse(x), rank=3)
    np.testing.assert_allclose(found.s, np.linalg.svd(x.todense())[1][:3], rtol=1e-5)


def test_ten_rows_most_like_mine():
    rows = jax.random.normal(jax.random.key(0), (1000, 16))
    found = similarity.top_k(rows[7], rows, k=10)
    assert found.indices[0] == 7
    assert found.scores[0] == pytest.approx(1.0, abs=1e-6)


def test_pagerank_of_an_edge_list():
    edges = np.array([(0, 1), (2, 1), (3, 1), (1, 0), (1, 2)])
    ranks = eigen.pagerank(edges[:, 0], edges[:, 1], 4)
    assert ranks.scores.argmax() == 1


def test_ridge_with_many_right_hand_sides():
    x, w = jax.random.normal(jax.random.key(0), (100, 7)), jnp.arange(21.0).reshape(7, 3)
    found = regression.ridge(x, x @ w, l2=1e-4)
    np.testing.assert_allclose(found.weights, w, atol=1e-2)


def test_recommend_from_a_csv_of_ratings(tmp_path):
    rows = "user,item,rating 0,0,5 0,1,1 1,0,5 1,2,4 2,1,1 2,2,5".split()
    (tmp_path / "ratings.csv").write_text("\n".join(rows))
    users, items, stars = np.loadtxt(tmp_path / "ratings.csv", delimiter=",", skiprows=1).T
    users, items = users.astype(int), items.astype(int)
    model = factorize.als(jax.random.key(0), users, items, stars, shape=(3, 3), rank=2, l2=0.1)
    best = factorize.recommend(model, 0, k=1, exclude=items[users == 0])
    assert best.indices[0] == 2


def test_load_gpt2_and_generate(tmp_path):
    params = transformer.init_gpt(jax.random.key(0), GPT)
    transformer.save_gpt2(tmp_path / "model.safetensors", params, config=GPT)
    params, config = transformer.load_gpt2(tmp_path)
    prompt = jnp.array([3, 1, 4])
    written = transformer.generate(jax.random.key(1), params, prompt, config=config, steps=5)
    assert written.tokens.shape == (5,)


def test_resume_training_after_a_kill(tmp_path):
    loss = lambda w, x: ((w - x) ** 2).mean()
    draw = lambda step: jax.random.normal(jax.random.key(step), (3,))
    batches = lambda steps: jnp.stack([draw(step) for step in steps])
    killed = lambda steps: batches(steps) if 40 not in steps else pytest.fail("killed")
    run = partial(train.fit_in_chunks, loss, jnp.zeros(3), chunk=20, steps=60, optimizer=ADAM)
    with CheckpointManager(tmp_path) as manager, pytest.raises(pytest.fail.Exception):
        run(batches=killed, checkpoint=manager)
    with CheckpointManager(tmp_path) as manager:
        resumed = run(batches=batches, checkpoint=manager)
        assert manager.all_steps()[0] > 0
    assert (resumed.params == run(batches=batches).params).all()


class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = x + nn.MultiHeadDotProductAttention(num_heads=2, name="attention")(x, x)
        return nn.Dense(3, name="head")(x)


def test_adapt_only_the_attention_of_my_flax_model():
    model, x = Model(), jax.random.normal(jax.random.key(0), (5, 8))
    params = model.init(jax.random.key(1), x)
    layouts = lora.layouts(model.apply, params, x)
    where = "attention.*kernel"
    adapters = lora.init(jax.random.key(2), params, 2, where=where, layout=layouts)
    loss = lambda adapters, x: (lora.lift(model.apply)(params, adapters, x) ** 2).mean()
    result = train.fit(loss, adapters, jnp.stack([x] * 10), optimizer=ADAM)
    assert result.losses[-1] < result.losses[0]
    names = ("query", "key", "value", "out")
    assert set(result.params) == {f"params/attention/{name}/kernel" for name in names}


def test_extract_lora_from_two_checkpoints():
    base = {"w": jax.random.normal(jax.random.key(0), (16, 12)), "b": jnp.ones(12)}
    change = jnp.outer(jnp.arange(16.0), jnp.ones(12))
    tuned = base | {"w": base["w"] + change}
    adapters = lora.extract(base, tuned, where="w", rank=1)
    assert lora.residual(base, tuned, adapters)["w"] < 1e-4


def test_merge_three_adapters():
    params = {"w": jnp.zeros((16, 12))}
    draw = lambda i, *shape: jax.random.normal(jax.random.key(i), shape)
    three = [{"w": lora.LowRank(draw(i, 16, 2), draw(-i, 2, 12))} for i in (1, 2, 3)]
    one = lora.combine(three, [0.5, 0.3, 0.2])
    together = lora.merge(params, one)["w"]
    apart = [lora.merge(params, adapters)["w"] for adapters in three]
    np.testing.assert_allclose(
        together, 0.5 * apart[0] + 0.3 * apart[1] + 0.2 * apart[2], atol=1e-5
    )


def test_save_adapters_for_peft(tmp_path):
    params = transformer.init_gpt(jax.random.key(0), GPT)
    layouts = lora.layouts(transformer.gpt, params, jnp.arange(5), config=GPT)
    adapters = lora.init(jax.random.key(1), params, 2, where="attention/out", layout=layouts)
    names = {path: "transformer.h.{}.attn.c_proj" for path in adapters}
    lora.save_peft(tmp_path, adapters, names, task_type="CAUSAL_LM")
    back = lora.load_peft(tmp_path, params, names, layouts)
    assert (tmp_path / "adapter_model.safetensors").exists()
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), adapters, back))


def test_classify_my_images_with_a_vision_transformer():
    config = transformer.ViTConfig(image=(8, 8, 1), patch=4, classes=3, heads=2, width=8)
    params = transformer.init_vit(jax.random.key(0), config)
    images = jax.random.uniform(jax.random.key(1), (5, 8, 8, 1))
    scores = jax.vmap(partial(transformer.vit, params, config=config))(images)
    assert scores.shape == (5, 3)


def test_ship_my_model_without_its_code():
    params = layers.init_mlp(jax.random.key(0), (5, 3))
    x = jax.ShapeDtypeStruct((2, 5), "float32")
    shipped = jax.export.export(jax.jit(layers.mlp))(params, x).serialize()
    again = jax.export.deserialize(shipped).call(params, jnp.ones((2, 5)))
    assert (again == layers.mlp(params, jnp.ones((2, 5)))).all()


def lines_of_code(test):
    """Lines of a test but for its name and what it asserts."""
    asserts = [node for node in ast.walk(test) if isinstance(node, ast.Assert)]
    asserted = sum(node.end_lineno - node.lineno + 1 for node in asserts)
    return test.end_lineno - test.body[0].lineno + 1 - asserted


def test_every_task_takes_ten_lines_at_most():
    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    tests = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    tasks = {test.name: lines_of_code(test) for test in tests if test.name[:4] == "test"}
    assert len(tasks) > 20
    assert {name: lines for name, lines in tasks.items() if lines > 10} == {}
