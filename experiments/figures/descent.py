"""The pictures of the chapter "Walking downhill"."""

from typing import NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure as Canvas

from experiments.rows import Figure


class Slice(NamedTuple):
    """Losses (x, y) over a plane through a trained network, and the path projected on it."""

    x: np.ndarray
    y: np.ndarray
    losses: np.ndarray
    path: np.ndarray


def parabola(loss, *, starts: tuple[float, ...], rate: float, steps: int) -> Figure:
    """Steps down a parabola from both sides."""
    canvas = Canvas(figsize=(5.5, 3.2), layout="constrained")
    axes = canvas.subplots()
    w = np.linspace(0.6, 5.4, 201)
    axes.plot(w, loss(w), color="0.6", lw=1.2)
    for colour, start in zip(("C0", "C1"), starts, strict=True):
        path = np.full(steps + 1, start)
        for step in range(steps):
            path[step + 1] = path[step] - rate * float(jax.grad(loss)(path[step]))
        axes.plot(path, loss(path), "o-", ms=4, lw=1, color=colour)
        sign, side = ("positive", "right") if start > path[-1] else ("negative", "left")
        inward = -10 if side == "right" else 10
        axes.annotate(
            f"gradient {sign}",
            (start, loss(start)),
            (inward, 0),
            textcoords="offset points",
            ha=side,
            va="center",
            color=colour,
        )
    axes.set(xlabel="weight", ylabel="loss", ylim=(-0.2, 6.2))
    return Figure(
        name="parabola",
        figure=canvas,
        caption=f"{steps} steps at rate {rate} on (w - 3)². Where the gradient is positive the "
        "weight falls, where negative it rises, and the steps shorten as the slope flattens.",
    )


def drops(stated: np.ndarray, runs: np.ndarray) -> Figure:
    """How far the loss falls in each stretch of 20 steps: the listing against real runs."""
    canvas = Canvas(figsize=(6, 3.4), layout="constrained")
    axes = canvas.subplots()
    stretch = np.arange(1, 1 + len(stated))
    axes.plot(stretch, runs.T, color="C0", lw=0.8, alpha=0.5)
    axes.plot([], [], color="C0", lw=0.8, label=f"the program, {len(runs)} seeds")
    axes.plot(stretch, stated, "o-", color="C1", label="the article's listing")
    axes.annotate(
        "a drop larger than the one before",
        (2, stated[1]),
        (18, 26),
        textcoords="offset points",
        color="C1",
        arrowprops={"arrowstyle": "-", "color": "C1", "lw": 0.8},
    )
    labels = [f"{20 * i - 20} to {20 * i}" for i in stretch]
    axes.set(xticks=stretch, xticklabels=labels, xlabel="steps", ylabel="fall of the loss")
    axes.set(yscale="log")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return Figure(
        name="drops",
        figure=canvas,
        caption="Gradient descent on a fixed quadratic falls by less and less, so every real "
        "run goes down in this plot. The printed losses go up once: no run can do that.",
    )


def rates(tried: tuple[float, ...], curves: list) -> Figure:
    """Excess loss by step at several rates."""
    canvas = Canvas(figsize=(6, 3.4), layout="constrained")
    axes = canvas.subplots()
    names = ("{:.2f}", "{:.1f}", "{:.3f}, 5 % below critical", "{:.3f}, 5 % above critical")
    for rate, curve, name in zip(tried, curves, names, strict=True):
        axes.semilogy(np.maximum(curve, 1e-9), label=name.format(rate), lw=1.4)
    axes.set(xlabel="step", ylabel="loss above the minimum", ylim=(1e-5, 1e6))
    axes.legend(title="rate", loc="upper right")
    return Figure(
        name="rates",
        figure=canvas,
        caption="The same regression at four rates. A tenth of a good rate takes ten times as "
        "long; beyond 2 / largest curvature the loss explodes.",
    )


def errors_by_condition(measured: dict) -> Figure:
    """Errors of the normal equation, QR and ridge against the condition of the features."""
    canvas = Canvas(figsize=(8.6, 3.8), layout="constrained")
    for axes, (dtype, (conditions, errors)) in zip(
        canvas.subplots(1, 2), measured.items(), strict=True
    ):
        eps = float(np.finfo(dtype).eps)
        for power, style in ((1, ":"), (2, "--")):
            guide = eps * conditions**power
            label = f"cond{'²' if power == 2 else ''} ε"
            axes.loglog(conditions, guide, style, color="0.7", lw=1, label=label)
        for name, error in errors.items():
            axes.loglog(conditions, np.where(np.isfinite(error), error, np.nan), label=name)
        axes.set(title=dtype, xlabel="condition number of X", ylim=(eps / 4, 4))
        axes.set(xlim=(1, conditions[-1]))
    canvas.axes[0].set_ylabel("relative error of the weights")
    canvas.axes[0].legend(loc="lower right")
    return Figure(
        name="errors-by-condition",
        figure=canvas,
        caption="The normal equation's error grows with the square of the condition number, "
        "QR's with the number itself. A line ends where the function says that it has no "
        "answer; ridge always has one, of other, smaller weights.",
    )


def norms(gains: tuple[float, ...], growth: np.ndarray) -> Figure:
    """The norm of a vector on its way through random layers."""
    canvas = Canvas(figsize=(5.5, 3.2), layout="constrained")
    axes = canvas.subplots()
    for gain, line in zip(gains, growth - growth[:, :1], strict=True):
        axes.plot(line, lw=1.4)
        axes.text(20.4, line[-1], f"gain {gain:g}", va="center")
    axes.plot((0, growth.shape[1] - 1), (0, 0), color="0.8", lw=0.8, zorder=0)
    axes.set(xlabel="layer", ylabel="log₂ of the norm, from the start", xlim=(0, 24))
    axes.set(xticks=range(0, 21, 5))
    return Figure(
        name="norms",
        figure=canvas,
        caption="Through 20 random layers of width 64 a norm halves or doubles at each, "
        "unless the gain is 1: gradients on the way back vanish or explode the same way.",
    )


def landscapes(random: Slice, along: Slice) -> Figure:
    """Two slices of a loss surface with the way that training took, projected onto them."""
    canvas = Canvas(figsize=(8.6, 3.8), layout="constrained")
    panels = canvas.subplots(1, 2)
    lowest = min(part.losses.min() for part in (random, along))
    levels = np.geomspace(lowest, max(part.losses.max() for part in (random, along)), 16)
    titles = ("two random directions", "the path's two main directions")
    for axes, part, title in zip(panels, (random, along), titles, strict=True):
        surface = axes.contourf(
            part.x, part.y, part.losses.T, levels, cmap="Blues", norm="log", extend="both"
        )
        axes.plot(*part.path.T, ".-", color="C1", lw=1, ms=4)
        axes.plot(0, 0, "k+", ms=9)
        axes.set(title=title, xlabel="first direction")
    panels[0].set_ylabel("second direction")
    panels[1].annotate("start", along.path[0], (6, 4), textcoords="offset points")
    bar = canvas.colorbar(surface, ax=panels, label="training loss", format="%.2g")
    bar.ax.minorticks_off()
    return Figure(
        name="landscape",
        figure=canvas,
        caption="The loss around the trained network (cross) in two of its many "
        "dimensions; dots are the epochs, projected. Random directions hardly see the path: "
        "nearly everything is at a right angle to everything.",
    )
