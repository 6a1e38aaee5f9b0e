"""The pictures of the matrix product chapter."""

import itertools

import jax
import numpy as np
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle

from experiments.rows import Figure


def shape_pairs(sides: list[tuple[int, ...]], outcome: dict) -> Figure:
    """A grid with a shaded cell for each pair of shapes that has a product."""
    canvas = Canvas(figsize=(7, 6.6))
    panel = canvas.subplots()
    for (i, left), (j, right) in itertools.product(enumerate(sides), repeat=2):
        if outcome[left, right]:
            shape = "{}x{}".format(*outcome[left, right])
            panel.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, color="C0", alpha=0.3, lw=0))
            panel.text(j, i, shape, ha="center", va="center", size=7)
    names = ["{} x {}".format(*side) for side in sides]
    panel.set_xticks(range(len(sides)), names, rotation=90, fontsize=8)
    panel.set_yticks(range(len(sides)), names, fontsize=8)
    panel.set_xticks(np.arange(len(sides) + 1) - 0.5, minor=True)
    panel.set_yticks(np.arange(len(sides) + 1) - 0.5, minor=True)
    panel.grid(which="minor", linewidth=0.5)
    panel.tick_params(which="both", length=0)
    limits = (-0.5, len(sides) - 0.5)
    panel.set(xlabel="right matrix", ylabel="left matrix", xlim=limits, ylim=limits[::-1])
    panel.set_aspect("equal")
    return Figure(
        name="shape-pairs",
        figure=canvas,
        caption="All pairs of matrices with sides 1 to 4. A product exists in the shaded "
        "cells, which show its shape: columns on the left must equal rows on the right.",
    )


def row_by_column(a: jax.Array, b: jax.Array, product: jax.Array) -> Figure:
    """One panel for each entry: left matrix, right matrix and answer, with what meets."""
    canvas = Canvas(figsize=(8, 2.4))
    panels = canvas.subplots(2, 2)
    for (i, j), panel in np.ndenumerate(panels):
        meeting = (np.s_[i, :], np.s_[:, j], np.s_[i, j])
        matrices = zip((a, b, product), meeting, ("C0", "C1", "C2"), strict=True)
        for block, (matrix, place, colour) in enumerate(matrices):
            meets = np.zeros((2, 2), bool)
            meets[place] = True
            for (r, c), value in np.ndenumerate(np.asarray(matrix)):
                x = 3 * block + c
                if meets[r, c]:
                    corner = (x - 0.5, r - 0.5)
                    panel.add_patch(Rectangle(corner, 1, 1, color=colour, alpha=0.3, lw=0))
                panel.text(x, r, value, ha="center", va="center")
            panel.add_patch(
                Rectangle((3 * block - 0.5, -0.5), 2, 2, fill=False, ec="0.7", lw=0.8)
            )
        panel.text(5, 0.5, "=", ha="center", va="center")
        sums = " + ".join(f"{a[i, k]} · {b[k, j]}" for k in range(2))
        panel.text(8.1, 0.5, f"{sums} = {product[i, j]}", va="center")
        panel.set(xlim=(-0.7, 13.5), ylim=(1.7, -0.7))
        panel.set_axis_off()
    return Figure(
        name="row-by-column",
        figure=canvas,
        caption="Example 3, entry by entry: the row and the column that meet in each answer.",
    )


def cubes(stories: dict[str, list[jax.Array]]) -> Figure:
    """Wireframe cubes before, between and after, one panel for each order of moves."""
    edges = [
        (i, j)
        for i, j in itertools.combinations(range(8), 2)
        if (i ^ j).bit_count() == 1  # corners count in binary: an edge changes one digit
    ]
    canvas = Canvas(figsize=(9, 4))
    canvas.set_layout_engine("none")  # it would make room for axes that 3-D panels lack
    for place, (title, steps) in enumerate(stories.items(), start=1):
        panel = canvas.add_subplot(1, 2, place, projection="3d")
        for step, (corners, colour) in enumerate(zip(steps, ("0.4", "C0", "C1"), strict=True)):
            points = np.asarray(corners)[:, :3]
            for edge in edges:
                panel.plot(*points[list(edge)].T, color=colour, linewidth=1.3)
            panel.scatter(*points[6], color=colour, s=16)  # the corner (1, 1, 0)
            top = points.mean(axis=0) + np.array([0, 0, 4])
            panel.text(*top, str(step + 1), color=colour, ha="center", weight="bold")
        panel.set(title=title, xlabel="x", ylabel="y")
        panel.set(xticks=(0, 5, 10), yticks=(0, 5, 10), zticks=[])
        panel.set(xlim=(-5, 15), ylim=(-3, 15), zlim=(0, 6))
        panel.set_box_aspect((20, 18, 6), zoom=1.2)
        panel.view_init(elev=35, azim=-70)
    return Figure(
        name="cube",
        figure=canvas,
        caption="A cube moved by two 4 x 4 matrices, a quarter turn about the upright axis "
        "and a shift along x: 1 before, 2 between, 3 after, with one corner marked. The order "
        "decides where it lands.",
    )
