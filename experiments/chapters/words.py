"""Words as vectors: rows of a table, whose directions carry what the words have in common."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.chapters.words_learned import drift, natural_text
from experiments.data import corpus
from experiments.figures import words as figures
from experiments.published import MODELS, parameters
from experiments.rows import flops, row
from experiments.skipgram import neighbours
from experiments.word_vectors import ppmi, vectors
from lintoolkit.layers import embed
from lintoolkit.similarity import analogy, cosine_similarity, dot_flops, top_k

SENTENCE = "the cat sat on the mat"

# a is to b as c is to the last.
ANALOGIES = (
    ("man", "king", "woman", "queen"),
    ("boy", "prince", "girl", "princess"),
    ("man", "woman", "boy", "girl"),
    ("king", "queen", "prince", "princess"),
    ("man", "boy", "king", "prince"),
    ("woman", "girl", "queen", "princess"),
)


def tokens(*, seed: int, full: bool):
    """A sentence becomes numbers: words, their numbers, and a row of a table for each."""
    del full
    yield row(
        "sense-everything-called-tokens",
        None,
        note="A token is a unit of the input or the output. What passes between layers are "
        "activations, one row a token.",
    )
    units = SENTENCE.split()
    vocabulary = sorted(set(units))
    ids = jnp.array([vocabulary.index(unit) for unit in units])
    table = jax.random.normal(jax.random.key(seed), (len(vocabulary), 4))
    matrix = embed({"embedding": table}, ids)
    yield row(
        "sense-tokenise-language",
        {
            "tokens": len(units),
            "vocabulary": len(vocabulary),
            "ids": ids,
            "matrix_shape": matrix.shape,
            "characters": len(SENTENCE),
            "byte_tokens": len(SENTENCE.encode()),
        },
        embed,
        holds=bool(jnp.array_equal(matrix, table[ids])),
    )
    wide = jax.eval_shape(
        embed, {"embedding": jax.ShapeDtypeStruct((100_000, 4096), jnp.float16)}, ids
    )
    yield row(
        "matrices-sentence-matrix",
        {"sentence_tokens": len(units), "shape": wide.shape, "numbers": wide.size},
        embed,
        note="Looked up in a table of 100,000 rows that is never allocated.",
    )


def tables(*, seed: int, full: bool):
    """The table of all words: how large it is, and what looking up a row costs."""
    del full
    v, d = 11, 4
    table = jnp.asarray(np.random.RandomState(seed).randn(v, d))
    one_hot = jax.nn.one_hot(7, v, dtype=table.dtype)
    product = flops(lambda e, x: x @ e, table, one_hot, formula=2 * v * d)
    lookup = flops(lambda e: e[7], table)
    gpt2 = MODELS["gpt2-small"]
    yield row(
        "need-embedding-lookup",
        {
            "onehot_product_is_row": bool(
                jnp.array_equal(one_hot @ table, embed({"embedding": table}, jnp.array(7)))
            ),
            "onehot_flops_2Vd": product["lowered"],
            "lookup_flops": lookup["lowered"],
            "gpt2_table": gpt2.vocabulary * gpt2.width,
        },
        embed,
        flops=product,
        note="The FLOP are of the product. `embed` also puts NaN where there is no such row, "
        f"which is a choice for each number. GPT-2's shape: {gpt2.source}.",
    )
    big = jax.ShapeDtypeStruct((100_000, 4096), jnp.float16)
    llama = MODELS["llama-7b"]
    yield row(
        "matrices-embedding-table",
        {
            "shape": big.shape,
            "entries": big.size,
            "megabytes_fp16": big.size * 2 / 1e6,
            "megabytes_fp32": big.size * 4 / 1e6,
            "share_of_7e9": big.size / 7e9,
            "share_of_llama_7b": big.size / parameters(llama),
            "bytes_fp16": big.size * 2,
            "bytes_fp32": big.size * 4,
        },
        parameters,
        holds=big.size == 100_000 * 4096,
        note=f"LLaMA-7B has {parameters(llama):,} parameters ({llama.source}), its own table "
        "32,000 rows.",
    )
    word = jax.ShapeDtypeStruct((768,), jnp.float32)
    draw = np.random.RandomState(seed)
    a, b = (jnp.asarray(draw.randn(4_000, word.size)) for _ in range(2))
    yield row(
        "need-word-768",
        {
            "numbers": word.size,
            "bytes_float32": word.size * word.dtype.itemsize,
            "random_cosine_std": 1 / np.sqrt(word.size),
            "measured_on_4000_pairs": round(float(cosine_similarity(a, b).std()), 4),
        },
        cosine_similarity,
        flops=flops(lambda a, b: a @ b, a[0], b[0], formula=dot_flops(n=1, d=word.size)),
        note="The deviation is the theory's, 1/√d, with a measurement beside it. The FLOP are "
        "of one dot product.",
    )


def nearness(*, seed: int, full: bool):
    """Vectors from ninety sentences by counting: words used alike stand close together."""
    del seed, full
    words, counts = neighbours()
    table = vectors(ppmi(counts), rank=16)
    at = words.index
    cosine = lambda a, b: cosine_similarity(table[at(a)], table[at(b)])
    yield row(
        "sense-proximity-similarity",
        {
            "soup_water": cosine("soup", "water"),
            "king_queen": round(float(cosine("king", "queen")), 3),
            "soup_king": cosine("soup", "king"),
            "corpus_sentences": len(corpus()),
            "vocabulary": len(words),
        },
        vectors,
        cosine_similarity,
        flops=flops(lambda a, b: a @ b, table[0], table[1], formula=dot_flops(n=1, d=16)),
        holds=bool(cosine("soup", "water") - 0.05 > cosine("king", "queen") > 0.5),
        note="The sentences are our own, so how like king and queen are is not held to the "
        "ledger's 0.747, but to lie between one half and what words of one use have. The FLOP "
        "are of one dot product.",
        not_compared=("king_queen",),
    )
    meals = [at(w) for w in ("soup", "tea", "water", "hot", "cold", "cook", "waiter", "guest")]
    people = [at(w) for w in ("king", "queen", "man", "woman", "farm", "crown", "taxes")]
    across = cosine_similarity(table[jnp.array(meals)][:, None], table[jnp.array(people)])
    pairs = (("farm", "market"), ("kingdom", "crown"), ("soup", "tea"))
    yield row(
        "matrices-context-nearby",
        {
            "same_context": [cosine(*pair) for pair in pairs],
            "different_context_max": jnp.abs(across).max(),
        },
        vectors,
        cosine_similarity,
        note="The largest cosine, of either sign, of eight words about meals with seven about "
        "people.",
    )
    yield figures.word_map(words, vectors(ppmi(counts), rank=12))


def analogies(*, seed: int, full: bool):
    """King minus man plus woman: arithmetic on rows of the table."""
    del seed, full
    words, counts = neighbours()
    raw = ppmi(counts)
    at = words.index
    table = vectors(raw, rank=12)
    asked = jnp.array([[at(word) for word in quad] for quad in ANALOGIES])

    def answers(rows: jax.Array) -> jax.Array:
        return jax.vmap(lambda a, b, c: analogy(rows, a, b, c)[0])(*asked.T[:3])

    def target(rows: jax.Array) -> jax.Array:
        return rows[at("king")] - rows[at("man")] + rows[at("woman")]

    right = int(jnp.sum(answers(table) == asked[:, 3]))
    answer, raw_answer = (words[int(answers(rows)[0])] for rows in (table, raw))
    six = vectors(raw, rank=6)
    to = lambda rows, word: cosine_similarity(target(rows), rows[at(word)])
    unfiltered = words[int(top_k(target(table), table, k=1).indices[0])]
    counted = flops(
        lambda q, x: x @ q, target(table), table, formula=dot_flops(n=len(words), d=12)
    )
    yield row(
        "need-word-analogy",
        {
            "answer": answer,
            "cosine": to(table, "queen"),
            "answer_without_excluding_inputs": unfiltered,
            "six_analogies_right": right,
            "parallelogram_residual_zero": bool(
                jnp.linalg.norm(target(table) - table[at("queen")]) < 1e-9
            ),
            "at_six_dims_cos_to_queen": to(six, "queen"),
            "at_six_dims_cos_to_woman": to(six, "woman"),
            "at_six_dims_cos_to_princess": to(six, "princess"),
        },
        analogy,
        top_k,
        cosine_similarity,
        vectors,
        flops=counted,
        holds=bool(jnp.isclose(to(six, "princess"), to(six, "queen"))),
        note="In our own sentences it is princess, not woman, that six dimensions cannot tell "
        "from queen, so that key is not held to the ledger's. The FLOP are of the 63 dot "
        "products.",
        not_compared=("at_six_dims_cos_to_woman",),
    )
    yield row(
        "matrices-king-queen",
        {"answer": answer, "analogies_right_of_6": right, "raw_ppmi_rows_answer": raw_answer},
        analogy,
        vectors,
        flops=counted,
        note="The FLOP are of the 63 dot products.",
    )
    direction = lambda a, b: table[at(a)] - table[at(b)]
    gender = direction("woman", "man")
    same = (("queen", "king"), ("princess", "prince"), ("girl", "boy"))
    yield row(
        "need-relations-are-directions",
        {
            "gender_direction_cosines": [
                cosine_similarity(direction(*pair), gender) for pair in same
            ],
            "class_vs_gender": cosine_similarity(direction("king", "man"), gender),
        },
        vectors,
        cosine_similarity,
        flops=flops(lambda a, b: a @ b, gender, gender, formula=dot_flops(n=1, d=12)),
        note="The FLOP are of one dot product.",
    )
    yield figures.parallelogram(
        {word: np.asarray(table[at(word)]) for word in ("man", "king", "woman", "queen")}
    )


EXPERIMENTS = (tokens, tables, nearness, analogies, drift, natural_text)
