"""The pictures of the chapter "Derivatives, gradients and the chain rule"."""

import numpy as np
from matplotlib.figure import Figure as Canvas

from experiments.rows import Figure


def finite_differences(steps, errors: dict[type, np.ndarray]) -> Figure:
    """Error against step, one curve a precision, with the two laws that bound it."""
    canvas = Canvas(figsize=(6.5, 3.6), layout="constrained")
    axes = canvas.subplots()
    for dtype, error in errors.items():
        (line,) = axes.loglog(steps, np.maximum(error, 1e-14), lw=1.4, label=dtype.__name__)
        rounding = np.finfo(dtype).eps / steps
        axes.loglog(steps, rounding, ":", lw=1, color=line.get_color())
    axes.loglog(steps, steps**2 / 6, "k:", lw=1)
    axes.axvline(1e-4, color="0.6", lw=0.8)
    axes.annotate("article's h", (1e-4, 2), (4, 0), textcoords="offset points", va="top")
    axes.annotate("h²/6", (0.02, 2e-4), (8, -8), textcoords="offset points", va="top")
    axes.text(4e-10, 3e-5, "rounding, ε/h")
    axes.set(xlabel="step h", ylabel="error of the slope", ylim=(1e-14, 3))
    axes.legend(loc="lower left")
    return Figure(
        name="finite-differences",
        figure=canvas,
        caption="Error of the central difference of sin at 3. A large step h misses the "
        "curvature (error h²/6), a small one drowns in rounding (error ε/h): the best h is "
        "near the cube root of the precision, and the article's 1e-4 is too small for float32.",
    )


def slopes(fn, right: float, stated: float) -> Figure:
    """A curve near 3, its tangent there, and a line of the stated slope."""
    canvas = Canvas(figsize=(5.5, 3.4), layout="constrained")
    axes = canvas.subplots()
    x = np.linspace(2.75, 3.25, 201)
    axes.plot(x, fn(x), color="0.35", label="2 sin x²")
    near = np.linspace(2.86, 3.14, 2)
    for slope, style, name in ((right, "-", "tangent"), (stated, "--", "article")):
        axes.plot(near, fn(3.0) + slope * (near - 3), style, label=f"{name}, {slope:.3f}")
    axes.plot(3, fn(3.0), "ko", ms=4)
    axes.set(xlabel="x", ylabel="value", ylim=(-2.6, 2.6))
    axes.legend(loc="upper right")
    return Figure(
        name="chain-slope",
        figure=canvas,
        caption="2 sin x² around 3 with its tangent, and a line of the slope that the article "
        "states: half as steep, and not touching the curve beside 3.",
    )


def graph(tape) -> Figure:
    """The chain as boxes: values on the way forward, gradients on the way back."""
    canvas = Canvas(figsize=(7.5, 2.2), layout="constrained")
    axes = canvas.subplots()
    values = [tape[0]["input"], *(record["output"] for record in tape)]
    gradients = [*(record["gradient"] for record in tape), 1.0]
    names = ["x", "g = x²", "s = sin g", "z = 2 s"]
    derivatives = ["dg/dx = 2x", "ds/dg = cos g", "dz/ds = 2"]
    box = {"boxstyle": "round,pad=0.5", "facecolor": "none", "edgecolor": "0.5"}
    for i, (name, value, gradient) in enumerate(zip(names, values, gradients, strict=True)):
        axes.text(i, 0, name, ha="center", va="center", bbox=box)
        axes.text(i, 0.62, f"{value:.4f}", ha="center", va="center", color="C0")
        axes.text(i, -0.62, f"{gradient:.4f}", ha="center", va="center", color="C1")
    for i, (record, name) in enumerate(zip(tape, derivatives, strict=True)):
        forward = {"arrowstyle": "->", "color": "C0", "shrinkA": 24, "shrinkB": 24}
        axes.annotate("", (i + 1, 0.62), (i, 0.62), arrowprops=forward)
        axes.annotate("", (i, -0.62), (i + 1, -0.62), arrowprops=forward | {"color": "C1"})
        axes.text(i + 0.5, -0.95, f"× {record['local']:.4f}", ha="center", va="center")
        axes.text(i + 0.5, 0.95, name, ha="center", va="center", color="0.4")
    axes.text(-0.4, 0.62, "value", ha="right", va="center", color="C0")
    axes.text(-0.4, -0.62, "slope", ha="right", va="center", color="C1")
    axes.set(xlim=(-0.8, 3.4), ylim=(-1.15, 1.15))
    axes.axis("off")
    return Figure(
        name="graph",
        figure=canvas,
        caption="Forward (top, left to right) the graph keeps each value and each local "
        "slope; backward (bottom, right to left) the slopes multiply up. The article's -5.467 "
        "left out the last one, 2.",
    )
