"""Programs on many devices, forced on one CPU in a process of their own."""

import pytest
from elsewhere import found_by

PROGRAM = """
import json
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from lintoolkit.cost import cost

mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)

def spec(shape, *axes):
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, P(*axes)))

def layer(x, w, v):
    return jax.lax.fori_loop(0, 5, lambda _, h: jax.nn.relu(h @ w) @ v, x)

args = (
    spec((64, 32), "data", None),
    spec((32, 128), None, "model"),
    spec((128, 32), "model", None),
)
sharded = cost(layer, *args)
alone = cost(layer, *(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in args))
def body(x, w):
    return jax.lax.psum(x @ w, "model")

mapped = jax.shard_map(
    body, mesh=mesh, in_specs=(P("data", "model"), P("model", None)), out_specs=P("data", None)
)
sides = ((64, 32), (32, 16))
local = cost(mapped, *(jax.ShapeDtypeStruct(side, jnp.float32) for side in sides))

def made():
    at = jax.lax.axis_index("data").astype(jnp.float32)
    a = jnp.full((8, 16), at)
    return a @ a.T, at[None]

without = {"mesh": mesh, "in_specs": ()}
created = cost(jax.shard_map(made, out_specs=(P("data"), P("data")), **without))
one = cost(jax.shard_map(lambda: made()[0], out_specs=P("data"), **without))

over_data = {"mesh": mesh, "in_specs": P("data")}
summed = cost(
    jax.shard_map(lambda *x: jax.lax.psum(x, "data"), out_specs=P(), **over_data),
    *(jax.ShapeDtypeStruct((8, side), jnp.float32) for side in (4, 1000)),
)
around = [(k, (k + 1) % 4) for k in range(4)]
passed = cost(
    jax.shard_map(
        lambda x: jax.lax.ppermute(x, "data", around), out_specs=P("data"), **over_data
    ),
    jax.ShapeDtypeStruct((8, 3), jnp.float32),
)

print(json.dumps({
    "summed": [summed.flops, summed.exact, len(summed.collectives)],
    "passed": [[c.opcode, c.bytes, c.group, c.times] for c in passed.collectives],
    "created": [view.matmul_flops for c in (created, one) for view in (c.lowered, c)],
    "mapped": [local.lowered.matmul_flops, local.matmul_flops],
    "devices": sharded.devices,
    "each": sharded.matmul_flops,
    "all": sharded.global_flops,
    "lowered": sharded.lowered.matmul_flops,
    "alone": alone.matmul_flops,
    "collectives": [[c.opcode, c.bytes, c.group, c.times] for c in sharded.collectives],
    "table": str(sharded),
}))
"""


@pytest.fixture(scope="module")
def priced():
    devices = "--xla_force_host_platform_device_count=8"
    return found_by("-c", PROGRAM, XLA_FLAGS=devices, JAX_PLATFORMS="cpu", PYTHONPATH=".")


def test_totals_are_one_devices_and_sum_to_the_whole(priced):
    assert priced["devices"] == 8
    assert priced["lowered"] == priced["alone"] == 5 * 2 * 2 * 64 * 32 * 128
    assert 8 * priced["each"] == priced["alone"]
    assert priced["all"] >= 8 * priced["each"]


def test_collectives_have_bytes_groups_and_runs(priced):
    # One sum over the model axis for each trip, of this device's rows.
    assert ["all-reduce", 4 * 16 * 32, 2, 5] in priced["collectives"]
    assert "all-reduce at top level: 2,048 bytes among 2, 5 x" in priced["table"]


def test_the_body_of_a_shard_map_counts_once_a_device(priced):
    whole = 2 * 64 * 32 * 16
    assert priced["mapped"] == [whole, whole // 8]


def test_the_body_of_a_shard_map_without_operands_counts_once_a_device(priced):
    each = 2 * 8 * 16 * 8
    assert priced["created"] == 2 * [8 * each, each]


def test_a_sum_of_several_arrays_adds_all_their_elements(priced):
    # XLA makes one exchange of both; each device holds two rows of each.
    assert priced["summed"] == [2 * (4 + 1000), True, 1]


def test_a_ring_is_as_many_devices_as_pass_among_each_other(priced):
    assert priced["passed"] == [["collective-permute", 4 * 2 * 3, 4, 1]]
