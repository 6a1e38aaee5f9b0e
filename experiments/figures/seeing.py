"""The pictures of the chapter "Learning to see"."""

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import FancyBboxPatch

from experiments.classifier import Split, Trained
from experiments.rows import Figure

INK, GREY, LIGHT, ACCENT = "#222222", "#666b73", "#e4e6ea", "#c2410c"


def plain(axes: Axes, *, x: str, y: str, title: str) -> None:
    """Label the axes and take away the frame that says nothing."""
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.spines[["top", "right"]].set_visible(False)


def nested_terms(scores: dict[str, jax.Array]) -> Figure:
    """Learning methods inside one another; the written rule stands outside."""
    canvas = Canvas(figsize=(7.6, 3.4), layout="constrained")
    axes = canvas.add_subplot()
    boxes = (
        ("machine learning", "linear", "a linear classifier", 0.00, "#f4f5f7"),
        ("neural networks", "shallow", "one hidden layer", 0.24, "#e4e6ea"),
        ("deep networks", "deep", "three hidden layers", 0.48, "#cfd3da"),
    )
    for name, level, what, left, colour in boxes:
        inset = left / 0.24 * 0.06
        axes.add_patch(
            FancyBboxPatch(
                (left, inset),
                0.78 - left - inset / 2,
                1 - 2 * inset,
                boxstyle="round,pad=0,rounding_size=0.03",
                facecolor=colour,
                edgecolor=GREY,
            )
        )
        axes.text(left + 0.02, 0.80 - inset / 4, name, weight="bold", fontsize=9, color=INK)
        axes.text(left + 0.02, 0.46, f"{float(scores[level]):.1%}", fontsize=15, color=INK)
        axes.text(left + 0.02, 0.36, what, fontsize=8.5, color=INK)
    axes.text(0.82, 0.80, "a rule somebody wrote", weight="bold", fontsize=9, color=INK)
    axes.text(0.82, 0.46, f"{float(scores['rule']):.1%}", fontsize=15, color=ACCENT)
    axes.text(0.82, 0.36, "ink on the left of an 8", fontsize=8.5, color=INK)
    axes.set(xlim=(-0.01, 1.08), ylim=(-0.02, 1.02))
    axes.axis("off")
    return Figure(
        name="seeing-terms",
        figure=canvas,
        caption="The same digits, 3 against 8, unseen in training: what each level of the "
        "hierarchy answers correctly, and what a hand-written rule does outside it.",
    )


def nudges(p_dog: dict[float, jax.Array]) -> Figure:
    """P(dog) over gradient steps on the logits, one line a rate."""
    canvas = Canvas(figsize=(5.6, 3.2), layout="constrained")
    axes = canvas.add_subplot()
    for (rate, curve), colour in zip(p_dog.items(), (GREY, INK, ACCENT), strict=True):
        axes.plot(curve, color=colour)
        axes.annotate(
            f"rate {rate:g}",
            (len(curve) - 1, float(curve[-1])),
            (5, 0),
            textcoords="offset points",
            va="center",
            color=colour,
        )
    axes.set(ylim=(0, 1.02), xlim=(0, 36))
    plain(
        axes,
        x="gradient steps",
        y="P(dog)",
        title="The picture is a dog; the net began at 0.27",
    )
    return Figure(
        name="seeing-nudges",
        figure=canvas,
        caption="Each step moves the two logits against the gradient of the cross-entropy. The "
        "learning rate decides whether that is a nudge or a shove.",
    )


def learning(net: Trained) -> Figure:
    """Loss and test accuracy of the digit classifier by epoch."""
    canvas = Canvas(figsize=(8.4, 3.4), layout="constrained")
    left, right = canvas.subplots(1, 2)
    epochs, steps = net.batch_loss.shape
    when = np.arange(1, epochs * steps + 1) / steps
    left.plot(when, np.ravel(net.batch_loss), color=LIGHT, lw=0.6, label="each batch of 20")
    left.plot(net.loss, color=INK, label="all 1,200 training digits")
    left.axhline(0.1, color=ACCENT, lw=0.8, ls="--")
    crossed = int((net.loss < 0.1).argmax())
    left.annotate(
        f"below 0.1 after epoch {crossed}",
        (crossed, 0.1),
        (0, 14),
        textcoords="offset points",
        color=ACCENT,
        ha="center",
    )
    left.set(yscale="log", xlim=(0, epochs), ylim=(0.004, 4))
    left.legend(frameon=False, fontsize=8, loc="upper right")
    plain(left, x="epoch", y="cross-entropy (nats)", title="Training loss")
    right.plot(net.test_accuracy, color=INK)
    right.axhline(0.9, color=ACCENT, lw=0.8, ls="--")
    good = net.test_accuracy >= 0.9
    reached = int(good.argmax())
    kept = ", and kept" if good[reached:].all() else ""
    right.annotate(
        f"90% after epoch {reached}{kept}" if good.any() else "never 90%",
        (reached, 0.9),
        (12, -14),
        textcoords="offset points",
        color=ACCENT,
    )
    right.set(xlim=(0, epochs), ylim=(0, 1.02))
    plain(
        right,
        x="epoch",
        y="share correct",
        title=f"Accuracy on unseen digits: {float(net.test_accuracy[-1]):.1%} at the end",
    )
    return Figure(
        name="seeing-loss",
        figure=canvas,
        caption="The 64-32-10 network learns: the loss falls on the whole though single "
        "batches jump, and nine digits in ten are right within a few epochs.",
    )


def answers(split: Split, probabilities: jax.Array) -> Figure:
    """Four test digits answered right and the two surest mistakes, with all probabilities."""
    truth, p = np.asarray(split.test_y), np.asarray(probabilities)
    wrong = p.argmax(1) != truth
    surest_mistakes = np.flatnonzero(wrong)[np.argsort(-p[wrong].max(1))[:2]]
    shown = (*np.flatnonzero(~wrong)[:4], *surest_mistakes)
    canvas = Canvas(figsize=(8.8, 3.0), layout="constrained")
    axes = canvas.subplots(2, len(shown), height_ratios=(1.2, 1))
    for (image, bars), i in zip(axes.T, shown, strict=True):
        image.imshow(split.test_x[i].reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        guess = p[i].argmax()
        image.set_title(
            f"{guess}, {p[i, guess]:.1%}" + (f"\n(it is a {truth[i]})" if wrong[i] else "\n"),
            fontsize=9,
            color=ACCENT if wrong[i] else INK,
        )
        image.set(xticks=[], yticks=[])
        image.spines[:].set_color(LIGHT)
        colours = [ACCENT if wrong[i] and c == guess else GREY for c in range(10)]
        bars.bar(range(10), p[i], color=colours)
        bars.set(xticks=range(10), yticks=[], ylim=(0, 1))
        bars.tick_params(labelsize=7, length=0)
        bars.spines[["top", "right", "left"]].set_visible(False)
    axes[1, 0].set_ylabel("probability", fontsize=8)
    return Figure(
        name="seeing-answers",
        figure=canvas,
        caption="Unseen digits and the network's ten probabilities: four right answers, and "
        "the two mistakes it was surest of.",
    )


def specialists(by_class: jax.Array) -> Figure:
    """Mean activation of every hidden unit for every class."""
    order = np.argsort(np.asarray(by_class.argmax(0)), kind="stable")
    canvas = Canvas(figsize=(8.0, 3.3), layout="constrained")
    axes = canvas.add_subplot()
    picture = axes.imshow(np.asarray(by_class)[:, order], cmap="Greys", aspect="auto", vmin=0)
    axes.set(yticks=range(10), xticks=[])
    plain(
        axes,
        x=f"the {by_class.shape[1]} hidden units, by the class that excites them most",
        y="digit shown",
        title="Mean activation",
    )
    canvas.colorbar(picture, ax=axes, pad=0.01)
    return Figure(
        name="seeing-units",
        figure=canvas,
        caption="No unit answers to one digit alone, and every digit excites several: the "
        "class is in the pattern. White columns are units that hardly ever switch on.",
    )


def feature_weights(weights: jax.Array, largest: int) -> Figure:
    """Five logistic weights over training, the informative one in colour."""
    canvas = Canvas(figsize=(5.6, 3.2), layout="constrained")
    axes = canvas.add_subplot()
    axes.plot(weights, color=GREY, lw=1)
    axes.plot(weights[:, largest], color=ACCENT)
    half = len(weights) // 2
    for text, height, colour in (
        ("the one that decides the label", weights[half, largest] - 0.7, ACCENT),
        ("four that say nothing", 0.25, GREY),
    ):
        axes.text(half, float(height), text, color=colour)
    plain(axes, x="update", y="weight", title="Logistic regression on five features")
    return Figure(
        name="seeing-features",
        figure=canvas,
        caption="Repeated correction raises the weight of the one feature that decides the "
        "label and leaves the others near zero.",
    )


def choices(
    depth: dict[str, list], examples: tuple[int, ...], curves: dict[int, list[float]]
) -> Figure:
    """Test accuracy against depth, and against the number of training digits."""
    canvas = Canvas(figsize=(8.4, 3.3), layout="constrained")
    left, right = canvas.subplots(1, 2)
    left.plot(depth["accuracy"], color=INK, marker="o")
    for layers, score in enumerate(depth["accuracy"]):
        left.annotate(
            f"{float(score):.1%}",
            (layers, float(score)),
            (-3, 8),
            textcoords="offset points",
            ha="center",
        )
    left.set(xlim=(-0.6, 3.4), ylim=(0.9, 1.0))
    left.set_xticks(range(4), [f"{n}\n{p:,}" for n, p in enumerate(depth["parameters"])])
    plain(
        left,
        x="hidden layers of 32 units, and parameters",
        y="test accuracy",
        title="Depth (1,200 digits)",
    )
    for (width, scores), colour in zip(curves.items(), (INK, ACCENT), strict=True):
        right.plot(examples, scores, color=colour, marker="o", label=f"{width} hidden units")
    right.set(xscale="log", ylim=(0.7, 1.0))
    right.set_xticks(examples, [f"{n:,}" for n in examples])
    right.minorticks_off()
    right.legend(frameon=False, fontsize=8, loc="lower right")
    plain(right, x="training digits", y="test accuracy", title="Data (one hidden layer)")
    return Figure(
        name="seeing-choices",
        figure=canvas,
        caption="More data helps this task more than more layers do. Note the different "
        "scales; the right-hand points are means of three networks.",
    )


def heads(x: jax.Array, y: jax.Array, p: jax.Array, names: tuple[str, ...]) -> Figure:
    """Eight drawn heads with what the convnet says of them."""
    canvas = Canvas(figsize=(8.8, 1.9), layout="constrained")
    shown = (np.asarray(a)[:8] for a in (x, y, p))
    for axes, drawing, truth, answer in zip(canvas.subplots(1, 8), *shown, strict=True):
        guess = answer.argmax()
        axes.imshow(drawing, cmap="gray_r")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color(LIGHT)
        axes.set_xlabel(f"is a {names[truth]}", fontsize=8, color=GREY)
        axes.set_title(
            f"{names[guess]} {answer[guess]:.0%}",
            fontsize=9,
            color=INK if guess == truth else ACCENT,
        )
    return Figure(
        name="seeing-heads",
        figure=canvas,
        caption="Drawn heads unseen in training, with the convnet's answer and its "
        "probability. Cats have pointed ears, dogs floppy ones; all else is chance.",
    )


def transfer(scores: dict[str, float]) -> Figure:
    """Accuracy on new kinds of drawings after one and five examples of each."""
    canvas = Canvas(figsize=(5.6, 3.2), layout="constrained")
    axes = canvas.add_subplot()
    lines = (
        ("pretrained", "features of eight other kinds", ACCENT),
        ("from_scratch", "trained from scratch", INK),
        ("untrained", "features of an untrained net", GREY),
        ("raw", "raw pixels", GREY),
    )
    for key, text, colour in lines:
        values = [scores[f"{shots}_shot_{key}"] for shots in (1, 5)]
        style = "--" if key == "raw" else "-"
        axes.plot((1, 5), values, color=colour, marker="o", ls=style, label=text)
    axes.axhline(0.2, color=LIGHT)
    axes.text(5, 0.21, "chance", color=GREY, ha="right", fontsize=8)
    axes.set(xticks=(1, 5), ylim=(0, 1), xlim=(0.7, 5.3))
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    plain(axes, x="labelled examples of each kind", y="share correct", title="Five new kinds")
    return Figure(
        name="seeing-transfer",
        figure=canvas,
        caption="Filters learned on eight kinds of drawings tell five new kinds apart better, "
        "from one example and from five, than the three other ways.",
    )
