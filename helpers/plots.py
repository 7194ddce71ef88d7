"""Figures of the course: one idea each, labelled axes, readable from the back of a room.

Every function returns a matplotlib figure that carries its own description in words.
"""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.patches import Rectangle
from sklearn.metrics import ConfusionMatrixDisplay

from helpers.evaluate import systems

# One colour for one thing, in all notebooks. Blue is what was there before, orange is what we add.
BASE = "#3b6ea5"  # the model before tuning, and whatever else tuning is compared with
TUNED = "#d9822b"  # the model after tuning
FROZEN, ADAPTER = "#a9c1dc", "#d9822b"  # weights that stay as they are; weights that are trained
TRAINING, VALIDATION = "#8e6bb0", "#2f8f6b"  # rows that are learned from; rows that are watched
LIMIT, MEASURED = "#c0392b", "#555555"  # what cannot be passed; what was measured, not predicted
MEMORY = {  # what fills the memory while training, beside the weights
    "frozen weights": FROZEN,
    "trained weights and optimizer": ADAPTER,
    "activations, logits, workspace": "#7fb7a8",
    "Python and libraries": "#c9c9c9",
}
MEMORY_GROUPS = {  # the predictor's parts, as the plot puts them together; others are the last
    "weights": "frozen weights",
    "quantization constants": "frozen weights",
    "trained weights": "trained weights and optimizer",
    "adapters": "trained weights and optimizer",
    "gradients": "trained weights and optimizer",
    "optimizer": "trained weights and optimizer",
    "runtime": "Python and libraries",
}


def new_axes(title, xlabel, ylabel, size=(7, 4)):
    """(figure, axes) of one plot with these words, large enough for the back of a room.

    size: width and height in inches.
    """
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    axes.set_title(title, size=15)
    axes.set_xlabel(xlabel, size=13)
    axes.set_ylabel(ylabel, size=13)
    axes.tick_params(labelsize=12)
    return figure, axes


def described(figure, text):
    """`figure`, with `text` (str) for those who cannot see it.

    It goes into a notebook's output as "alt" of image/png, which exports to HTML understand.
    """

    def bundle(include=None, exclude=None):
        return {}, {"image/png": {"alt": text}}

    figure._repr_mimebundle_ = bundle
    return figure


def token_lengths(lengths, max_length):
    """Histogram of `lengths` (tokens per example) with the median, the longest and `max_length`.

    Where `max_length` is so large that the bars would shrink, it stands at the edge, as an arrow.
    """
    figure, axes = new_axes("How long the examples are", "tokens per example", "examples")
    counts, _, _ = axes.hist(lengths, bins=20, color=BASE, edgecolor="white")
    axes.set_ylim(0, 1.25 * max(counts))
    median, longest = sorted(lengths)[len(lengths) // 2], max(lengths)
    marks = {f"median {median}": median, f"longest {longest}": longest}
    if max_length < 2 * longest:
        axes.axvline(max_length, color=LIMIT)
        axes.annotate(
            f"max_length {max_length}",
            (max_length, 1.2 * max(counts)),
            xytext=(-6, 0),
            textcoords="offset points",
            ha="right",
            va="top",
            color=LIMIT,
        )
    else:
        text = f"max_length {max_length} \N{RIGHTWARDS ARROW}"
        axes.text(0.99, 0.97, text, transform=axes.transAxes, ha="right", va="top", color=LIMIT)
    for label, value in marks.items():
        axes.axvline(value, ymax=0.8, color=MEASURED, linestyle="--")
        axes.annotate(
            label,
            (value, 1.02 * max(counts)),
            xytext=(-4, 0),
            textcoords="offset points",
            ha="right",
        )
    return described(
        figure,
        f"Histogram of {len(lengths)} examples: {min(lengths)} to {longest} tokens, median "
        f"{median}; max_length is {max_length}.",
    )


def losses(history, path):
    """Training loss, smoothed, and validation loss over optimizer steps; also saved to `path`.

    history: list of dict, the Trainer's log history; path: Path or str of a PNG. The validation
    step with the lowest loss is marked. The axis ends where validation begins to be readable; what
    of the training loss lies above it is left to the words.
    """
    training = pd.Series({row["step"]: row["loss"] for row in history if "loss" in row})
    validation = pd.Series({row["step"]: row["eval_loss"] for row in history if "eval_loss" in row})
    figure, axes = new_axes("Loss while training", "optimizer step", "loss per answer token (nats)")
    logged = max(1, len(training) // 10)  # how many logged values make one point of the curve
    smooth = training.rolling(logged, center=True, min_periods=1).mean()
    axes.plot(training, color=TRAINING, alpha=0.25, linewidth=1)
    label = "training" if logged == 1 else f"training, mean of {logged} logged values"
    axes.plot(smooth, color=TRAINING, linewidth=2.5, label=label)
    axes.plot(validation, "o-", color=VALIDATION, linewidth=2.5, label="validation")
    best, lowest = validation.idxmin(), validation.min()
    axes.plot(best, lowest, "o", markersize=15, mec=VALIDATION, mfc="none", mew=2)
    axes.annotate(
        f"best: {lowest:.2g} at step {best}",
        (best, lowest),
        xytext=(0, 30),
        textcoords="offset points",
        ha="right" if best > training.index[-1] / 2 else "left",
        color=VALIDATION,
        size=12,
        arrowprops={"arrowstyle": "-", "color": VALIDATION, "shrinkB": 8},
    )
    top = min(training.max(), 4 * validation.max())
    axes.set_ylim(0, 1.05 * top)
    if training.max() > top:
        shown = smooth.index[smooth < top][0]  # the curve comes into sight here
        start = f"  ◀ begins at {training.iloc[0]:.1f}"
        axes.text(shown, 0.93 * top, start, color=TRAINING, size=12, va="center")
    axes.legend(loc="upper right", fontsize=12)
    figure.savefig(path, dpi=120)
    return described(
        figure,
        "Curves over the optimizer steps: training loss from "
        f"{smooth.iloc[0]:.2g} to {smooth.iloc[-1]:.2g}, smoothed; validation loss from "
        f"{validation.iloc[0]:.2g} at step {validation.index[0]} to {validation.iloc[-1]:.2g} at "
        f"step {validation.index[-1]}, lowest at step {best} with {lowest:.2g}.",
    )


def scores(intervals, metric):
    """Horizontal bars with 95 % intervals; a line at the score of the constant answer.

    intervals: {system: (score, (low, high))}, shares 0–1, systems as in metrics.json, of which
    "majority" is the constant answer; metric: its name (str).
    """
    metric = metric.replace("_", " ")
    title = "Scores on the test rows, with 95 % intervals"
    figure, axes = new_axes(title, f"{metric} (%)", "", (9, 4.5))
    for system, (score, (low, high)) in reversed(intervals.items()):
        name = systems.name(system)
        axes.barh(name, 100 * score, color=TUNED if system in systems.TUNED else BASE)
        # Equal scores may round below zero.
        whisker = [[max(0, 100 * (score - low))], [max(0, 100 * (high - score))]]
        axes.errorbar(100 * score, name, xerr=whisker, color="black", capsize=5)
        label = axes.text(100 * high + 2, name, f"{100 * score:.0f} %", va="center", size=12)
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})  # before the line
    axes.set_xlim(0, 112)
    axes.set_xticks(range(0, 101, 20))
    bars = [
        f"{systems.name(system)} {100 * score:.0f} % ({100 * low:.0f} to {100 * high:.0f})"
        for system, (score, (low, high)) in intervals.items()
    ]
    words = f"Bars of {metric} with 95 % intervals: {', '.join(bars)}."
    if "majority" in intervals:
        constant = 100 * intervals["majority"][0]
        axes.axvline(constant, color=LIMIT, linestyle="--", label="always the same answer")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), frameon=False, fontsize=12)
        words += f" A line at {constant:.0f} %, where the constant answer ends."
    return described(figure, words)


def confusion(truth, answers, labels):
    """Confusion matrix of `answers` against `truth` (lists of str).

    labels: the right answers there are (list of str); any other counts as "(no label)".
    """
    none = "(no label)"
    named = [answer if answer in labels else none for answer in answers]
    shown = [*labels, none] if none in named else list(labels)
    figure, axes = new_axes(
        "Given answers against right ones", "answer given", "right answer", (6, 5)
    )
    # Between two dollar signs matplotlib would read a formula.
    ticks = [label.replace("$", r"\$") for label in shown]
    drawn = ConfusionMatrixDisplay.from_predictions(
        truth,
        named,
        labels=shown,
        display_labels=ticks,
        ax=axes,
        cmap="Blues",
        colorbar=False,
        text_kw={"size": 16},
    )
    axes.set(xlabel="answer given", ylabel="right answer")  # scikit-learn has named them
    counts = [
        f"right {right}, given {given}: {drawn.confusion_matrix[i, j]}"
        for i, right in enumerate(shown)
        for j, given in enumerate(shown)
    ]
    return described(figure, f"Confusion matrix. {'; '.join(counts[:100])}.")


def lora(inputs, outputs, rank):
    """LoRA in one picture, to scale: a frozen matrix and the two thin ones that are trained.

    inputs, outputs: of the linear layer W, outputs × inputs; rank: inner size of B and A.
    """
    figure, axes = plt.subplots(figsize=(10, 4.2), layout="constrained")
    axes.set(aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    largest = max(inputs, outputs)
    gap = 0.22 * largest
    B, A = 1.9 * gap + inputs, 2.9 * gap + inputs + rank  # left edges
    final = A + inputs + 1.5 * gap
    for left, bottom, width, height, colour in (
        (0, 0, inputs, outputs, FROZEN),
        (B, 0, rank, outputs, ADAPTER),
        (A, outputs - rank, inputs, rank, ADAPTER),
        (final, 0, inputs, outputs, FROZEN),
    ):
        axes.add_patch(Rectangle((left, bottom), width, height, color=colour, linewidth=0))
    shade = {"facecolor": "none", "edgecolor": ADAPTER, "hatch": "//", "linewidth": 0}
    axes.add_patch(Rectangle((final, 0), inputs, outputs, **shade))
    middle = outputs / 2
    plus = r"$+\ \frac{\alpha}{r}\,\cdot$"
    for x, sign in ((inputs + 0.95 * gap, plus), (B + rank + gap / 2, "×"), (final - gap, "=")):
        axes.text(x, middle, sign, ha="center", va="center", size=24)
    trained, frozen = rank * (inputs + outputs), inputs * outputs
    for x, text in (
        (inputs / 2, f"W, frozen\n{outputs:,} × {inputs:,} = {frozen:,}"),
        (B, f"B, trained\n{outputs:,} × {rank}"),
        (A + inputs / 2, f"A, trained\n{rank} × {inputs:,}"),
        (final + inputs / 2, "the layer computes with\nW + (α / r) · B A"),
    ):
        axes.text(x, -0.06 * largest, text, ha="center", va="top", size=13)
    axes.text(A + inputs / 2, middle, f"{trained:,} weights", ha="center", color=ADAPTER, size=16)
    axes.set_xlim(-0.02 * largest, final + 1.02 * inputs)
    axes.set_ylim(-0.3 * largest, 1.04 * outputs)
    return described(
        figure,
        f"A large square W, frozen, of {outputs:,} by {inputs:,} weights; plus an upright strip "
        f"B of {outputs:,} by {rank} times a flat strip A of {rank} by {inputs:,}, both "
        f"trained, {trained:,} weights together; equals a square of W's size that is W with the "
        "product of the strips added.",
    )


def memory(predicted, capacities):
    """Stacked bars of the memory that training takes, with the memory of common GPUs as lines.

    predicted: {what the bar stands for: {part: bytes}}, parts as from `helpers.model.memory`;
    capacities: GB of the GPUs. A bar longer than the largest GPU is cut off there.
    """
    bars = {name: _memory_groups(parts, 1e9) for name, parts in predicted.items()}
    end = 1.12 * max(capacities)
    figure, axes = new_axes("What training takes", "memory (GB)", "", (10, 0.6 * len(bars) + 1.8))
    for name, groups in bars.items():
        left = 0
        for group, size in groups.items():
            axes.barh(name, size, left=left, color=MEMORY[group])
            left += size
        fits = left < end
        text = f"{left:.1f} GB" if fits else f"{left:.0f} GB → "
        side = "left" if fits else "right"
        number = axes.text(
            min(left + 0.005 * end, end), name, text, ha=side, va="center", size=12, zorder=4
        )
        number.set_bbox({"facecolor": "white" if fits else ADAPTER, "linewidth": 0, "pad": 1})
    for size in capacities:
        axes.axvline(size, color=LIMIT, linestyle="--", linewidth=1.5, zorder=3)
        axes.text(size, -0.65, f"{size} GB", color=LIMIT, ha="center", va="bottom", size=12)
    axes.set(xlim=(0, end), ylim=(len(bars) - 0.5, -0.6))
    axes.set_title(axes.get_title(), size=15, pad=24)
    shown = [group for group in MEMORY if any(groups[group] for groups in bars.values())]
    boxes = [Rectangle((0, 0), 1, 1, color=MEMORY[group]) for group in shown]
    legend = {"loc": "outside lower center", "ncols": len(shown), "frameon": False}
    figure.legend(boxes, shown, fontsize=12, **legend)
    sums = [
        f"{name} {sum(groups.values()):.1f} GB, of it frozen weights {groups['frozen weights']:.1f}"
        for name, groups in bars.items()
    ]
    return described(
        figure,
        f"Stacked bars of predicted memory: {'; '.join(sums)}. Lines at "
        f"{', '.join(f'{size} GB' for size in capacities)}, the memory of common GPUs.",
    )


def _memory_groups(parts, unit=1):
    """{group, as in MEMORY: size / unit} from {part: size} as `helpers.model.memory` predicts."""
    groups = dict.fromkeys(MEMORY, 0.0)
    for part, size in parts.items():
        groups[MEMORY_GROUPS.get(part, "activations, logits, workspace")] += size / unit
    return groups


def predicted_and_measured(parts, measured):
    """Predicted memory, a part upon another, beside the measured peak.

    parts: {name: MB}; measured: MB.
    """
    figure, axes = new_axes("Peak memory of training", "", "memory (MB)")
    base = 0
    for group, size in _memory_groups(parts).items():
        axes.bar("predicted", size, bottom=base, color=MEMORY[group], label=group)
        base += size
    axes.bar("measured", measured, color=MEASURED)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1, 0.5))
    sizes = ", ".join(f"{name} {size:.0f}" for name, size in parts.items())
    return described(
        figure,
        f"Two bars of memory: predicted {base:.0f} MB ({sizes}), measured {measured:.0f} MB.",
    )


KINDS = {  # which operations of PyTorch's profiler are what, by how their names begin
    "matrix products": (
        "mm",
        "bmm",
        "addmm",
        "linear",
        "scaled_dot_product",
        "int8_linear",
        "int8_mixed",
        "int8_scaled",
        "int_mm",
    ),
    "writing out the 4-bit base": ("dequantize", "gemm_4bit", "MatMul4Bit"),
    "random numbers for dropout": ("random_", "bernoulli_"),
    "conversions of precision, copies": ("copy_", "to_copy", "clone", "cat"),
}
REST = "activations, norms, sums, …"


def training_time(profiled, taken):
    """Left, what a training step spends its time on; right, seconds per step by setting.

    profiled: a torch profiler that has run; taken: {setting: seconds}, one setting more each time.
    """
    parts = _time_by_kind(profiled)
    total = sum(parts.values())
    small = [kind for kind in KINDS if parts[kind] < 0.01 * total]  # no bar to be seen
    parts[REST] += sum(parts.pop(kind) for kind in small)
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
    percent = [100 * part / total for part in parts.values()]
    bars = left.barh(list(parts)[::-1], percent[::-1], color=BASE)
    left.bar_label(bars, fmt="%.0f %%", padding=3)
    left.set(title="Forward and backward, by kind of operation", xlabel="share of the time (%)")
    left.set_xlim(0, 105)
    bars = right.barh(list(taken)[::-1], list(taken.values())[::-1], color=TUNED)
    right.bar_label(bars, fmt="%.1f s", padding=3)
    right.set(title="One setting after another, the same rows", xlabel="seconds per step")
    right.set_xlim(0, 1.15 * max(taken.values()))
    shares = "; ".join(f"{name} {100 * part / total:.0f} %" for name, part in parts.items())
    seconds = "; ".join(f"{name} {time:.1f} s" for name, time in taken.items())
    return described(
        figure,
        f"Left, forward and backward of a training step by kind of operation: {shares}. Right, "
        f"seconds per step, one setting more each time: {seconds}.",
    )


def _time_by_kind(profiled):
    """{kind of operation: microseconds} from a torch profiler that has run."""
    parts = dict.fromkeys((*KINDS, REST), 0.0)
    for event in profiled.key_averages():
        operation = event.key.split("::")[-1].lstrip("_")
        kind = next((kind for kind, names in KINDS.items() if operation.startswith(names)), REST)
        parts[kind] += event.self_cpu_time_total
    return parts
