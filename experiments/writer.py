"""A GPT that learns to write, character by character, from Python's own reference.

The text ships with Python (`pydoc_data.topics`) and differs a little from version to version.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from lintoolkit.train import fit
from lintoolkit.transformer import GPTConfig, generate, gpt, init_gpt

CONTEXT = 64
BATCH = 12
STRETCHES = 3  # between them the model is asked to write
KEPT = 20_000  # characters at the end of the text that are kept aside


# What gives the characters that occur and a text as their numbers.
Source = Callable[[], tuple[str, np.ndarray]]


class Written(NamedTuple):
    """A training run: the loss before each step, the loss on text kept aside, and samples.

    `samples` were written before the first step and after each stretch of steps.
    """

    losses: Float[Array, " steps"]
    kept: float
    samples: list[str]


@cache
def text() -> tuple[str, np.ndarray]:
    """The characters that occur, in order, and the whole text as their numbers."""
    from pydoc_data.topics import topics

    whole = "\n".join(topics[name] for name in sorted(topics))
    codes, numbers = np.unique(np.array(list(whole)), return_inverse=True)
    return "".join(codes), numbers.astype(np.int32)


def entropy_of_a_character(source: Source = text) -> float:
    """The least loss of guessing without looking at what came before, in nats."""
    letters, numbers = source()
    parts = np.array_split(numbers, 1 + numbers.size // 2**24)  # counting widens its input
    counts = sum(np.bincount(part, minlength=len(letters)) for part in parts)
    shares = counts / numbers.size
    return float(-(shares * np.log(shares)).sum())


def shape(*, width: int, blocks: int, source: Source = text) -> GPTConfig:
    """A GPT of heads of 32 over the text's characters."""
    return GPTConfig(
        vocabulary=len(source()[0]),
        context=CONTEXT,
        blocks=blocks,
        heads=width // 32,
        width=width,
    )


@cache
def next_token_loss(config: GPTConfig, *, remat: bool = False):
    """The mean surprise at each next token of a batch of sequences, in float32 at least."""

    def loss(params, batch):
        logits = gpt(params, batch[:, :-1], config=config, remat=remat)
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        entropy = optax.softmax_cross_entropy_with_integer_labels
        return entropy(logits, batch[:, 1:]).mean()

    return loss


@cache
def train_writer(
    *,
    width: int,
    blocks: int,
    steps: int,
    seed: int,
    source: Source = text,
    start: str = "\nThe ",
) -> Written:
    """AdamW on random stretches of the text, with a short climb and a long fall of the rate.

    Samples go on from `start`, or from where the part kept aside begins if it is empty.
    """
    letters, numbers = source()
    config = shape(width=width, blocks=blocks, source=source)
    generator = np.random.default_rng(seed)
    kept_aside = min(KEPT, numbers.size // 5)
    starts = generator.integers(numbers.size - kept_aside - CONTEXT, size=(steps, BATCH, 1))
    batches = jnp.asarray(numbers[starts + np.arange(CONTEXT + 1)], jnp.int32)
    rate = optax.warmup_cosine_decay_schedule(0.0, 4e-3, steps // 20, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.95))
    for_params, for_samples = jax.random.split(jax.random.key(seed))
    params, loss = init_gpt(for_params, config), next_token_loss(config)
    start = start or "".join(letters[i] for i in numbers[-kept_aside:][:8])
    prompt = jnp.array([letters.index(letter) for letter in start])

    def sample(params) -> str:
        written = generate(
            for_samples, params, prompt, config=config, steps=CONTEXT - 16, temperature=0.7
        )
        return start.lstrip() + "".join(letters[i] for i in written.tokens)

    state, losses, samples = optimizer.init(params), [], [sample(params)]
    for part in np.split(np.arange(steps), STRETCHES):
        result = fit(loss, params, batches[part], optimizer=optimizer, opt_state=state)
        params, state = result.params, result.opt_state
        losses.append(result.losses)
        samples.append(sample(params))
    rows = kept_aside // (CONTEXT + 1)
    aside = numbers[-kept_aside:][: rows * (CONTEXT + 1)].reshape(rows, CONTEXT + 1)
    kept = float(jax.jit(loss)(params, jnp.asarray(aside, jnp.int32)))
    return Written(jnp.concatenate(losses), kept, samples)
