"""Training on many devices, forced on one CPU in a process of their own."""

import numpy as np
import pytest
from elsewhere import found_by

PROGRAM = """
import contextlib, json, sys, tempfile
from functools import partial
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from orbax.checkpoint import CheckpointManager
from lintoolkit.checkpoint import digest, finish, restore, save
from lintoolkit.cost import cost
from lintoolkit.train import fit, fit_in_chunks
from lintoolkit.transformer import GPTConfig, gpt, init_gpt, shard_gpt

kind = getattr(AxisType, sys.argv[1])
config = GPTConfig(vocabulary=32, context=16, blocks=2, heads=4, width=32)
params = init_gpt(jax.random.key(0), config)
tokens = np.random.default_rng(0).integers(32, size=(6, 8, 17), dtype="int32")
optimizer = optax.adam(1e-2)

def plain(params, batch):
    logits = gpt(params, batch[:, :-1], config=config)
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()

loss = plain
if kind == AxisType.Explicit:
    loss = jax.sharding.auto_axes(plain, out_sharding=P())
alone = fit(plain, params, jnp.asarray(tokens), optimizer=optimizer)
mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind,) * 2)
split = NamedSharding(mesh, P(None, "data"))
with contextlib.nullcontext() if kind == AxisType.Auto else jax.set_mesh(mesh):
    placed = shard_gpt(params, mesh, config=config)
    result = fit_in_chunks(
        loss, placed, lambda steps: jax.device_put(tokens[steps.start : steps.stop], split),
        steps=6, chunk=3, optimizer=optimizer,
    )
    priced = cost(
        partial(fit, loss, optimizer=optimizer), placed, jax.device_put(tokens[:3], split)
    )
moments = result.opt_state[0].mu["blocks"]["mlp"][1]["kernel"]
row = jax.make_mesh((8,), ("data",), axis_types=(kind,))
with tempfile.TemporaryDirectory() as folder, CheckpointManager(folder) as manager:
    save(manager, 6, result.params)
    finish(manager)
    elsewhere = restore(manager, jax.device_put(params, NamedSharding(row, P()))).tree
    one = restore(manager, params).tree
found = {
    "alone": alone.losses.tolist(),
    "losses": result.losses.tolist(),
    "collectives": [[c.opcode, c.bytes, c.group, c.times] for c in priced.collectives],
    "spec": str(moments.sharding.spec),
    "shard": moments.addressable_shards[0].data.shape,
    "meshes": [elsewhere["norm"]["bias"].sharding.mesh.shape["data"],
               len(one["norm"]["bias"].devices())],
    "digests": [digest(tree) for tree in (result.params, elsewhere, one, alone.params)],
}
try:
    shard_gpt(params, jax.make_mesh((8,), ("model",), axis_types=(kind,)), config=config)
except ValueError as error:
    found["refused"] = str(error)
print(json.dumps(found))
"""


@pytest.fixture(scope="module", params=["Auto", "Explicit"])
def trained(request):
    words = "-c", PROGRAM, request.param
    return found_by(*words, JAX_NUM_CPU_DEVICES="8", JAX_PLATFORMS="cpu")


def test_many_devices_learn_what_one_does(trained):
    losses = np.array(trained["losses"])
    np.testing.assert_allclose(losses, trained["alone"], atol=1e-5, rtol=0)
    assert abs(losses - losses[0]).max() > 1e-3  # control: there is something to learn


def test_only_sums_travel(trained):
    """Over the model's axis after attention and MLP, forwards and back; gradients over data."""
    collectives = trained["collectives"]
    assert {opcode for opcode, *_ in collectives} == {"all-reduce"}
    rows = 4 * (8 // 4) * 16 * 32  # bytes of a device's vectors
    # Two blocks, three steps; where three layers read the same vectors, three sums in one.
    model = [(size, times) for _, size, group, times in collectives if group == 2]
    assert sorted(model) == [(rows, 6)] * 3 + [(3 * rows, 6)]
    assert {group for _, _, group, _ in collectives} == {2, 4}


def test_the_optimizer_lies_beside_the_parameters(trained):
    assert trained["shard"] == [2, 128 // 2, 32]
    assert "model" in trained["spec"]


def test_a_state_comes_back_on_another_mesh_to_the_bit(trained):
    saved, elsewhere, one, alone = trained["digests"]
    assert trained["meshes"] == [8, 1]
    assert saved == elsewhere == one
    assert saved != alone  # control: on another number of devices sums round differently


def test_what_does_not_divide_is_named(trained):
    expected = "shard_gpt: the mesh's axis 'model' has 8 devices, which do not divide 4 heads."
    assert trained["refused"] == expected
