"""Figures of the course: one idea each, labelled axes, readable from the back of a room.

Every function returns a matplotlib figure that carries its own description in words.
"""

import matplotlib.pyplot as plt
from sklearn.metrics import ConfusionMatrixDisplay

OURS, OTHERS, LIMIT, MEASURED = "#d9822b", "#3b6ea5", "#c0392b", "#555555"


def _axes(title, xlabel, ylabel, size=(7, 4)):
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    axes.set_title(title)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    return figure, axes


def _described(figure, text):
    """`figure`, with `text` (str) for those who cannot see it.

    It goes into a notebook's output as "alt" of image/png, which exports to HTML understand.
    """

    def described(include=None, exclude=None):
        return {}, {"image/png": {"alt": text}}

    figure._repr_mimebundle_ = described
    return figure


def token_lengths(lengths, max_length):
    """Histogram of `lengths` (tokens per example); a line at `max_length` when it is in sight."""
    figure, axes = _axes("How long the examples are", "tokens per example", "examples")
    axes.hist(lengths, bins=20, color=OTHERS, edgecolor="white")
    if max_length < 2 * max(lengths):
        axes.axvline(max_length, color=LIMIT, label="max_length")
        axes.legend()
    middle = sorted(lengths)[len(lengths) // 2]
    return _described(
        figure,
        f"Histogram of {len(lengths)} examples: {min(lengths)} to {max(lengths)} tokens, median "
        f"{middle}.",
    )


def losses(history, path):
    """Training and validation loss over optimizer steps; also saved to `path`.

    history: list of dict, the Trainer's log history; path: Path or str of a PNG.
    """
    figure, axes = _axes("Loss while training", "optimizer step", "loss per answer token (nats)")
    curves = []
    for key, label, style in (("loss", "training", "-"), ("eval_loss", "validation", "o-")):
        rows = [row for row in history if key in row]
        first, last = rows[0], rows[-1]
        axes.plot([row["step"] for row in rows], [row[key] for row in rows], style, label=label)
        curves.append(
            f"{label} loss from {first[key]:.2g} at step {first['step']} to {last[key]:.2g} at "
            f"step {last['step']}"
        )
    axes.set_yscale("log")
    axes.legend()
    figure.savefig(path, dpi=120)
    return _described(figure, f"Curves over the optimizer steps: {', '.join(curves)}.")


def scores(intervals, metric):
    """Horizontal bars with 95 % intervals.

    intervals: {system: (score, (low, high))}, shares 0–1; metric: its name (str).
    """
    metric = metric.replace("_", " ")
    title = "Scores on the test rows, with 95 % intervals"
    figure, axes = _axes(title, f"{metric} (%)", "", (8, 4))
    for name, (score, (low, high)) in reversed(intervals.items()):
        axes.barh(name, 100 * score, color=OURS if name in ("adapter", "merged") else OTHERS)
        # Equal scores may round below zero.
        whisker = [[max(0, 100 * (score - low))], [max(0, 100 * (high - score))]]
        axes.errorbar(100 * score, name, xerr=whisker, color="black", capsize=5)
        axes.text(100 * high + 2, name, f"{100 * score:.0f} %", va="center")
    axes.set_xlim(0, 112)
    axes.set_xticks(range(0, 101, 20))
    bars = [
        f"{name} {100 * score:.0f} % ({100 * low:.0f} to {100 * high:.0f})"
        for name, (score, (low, high)) in intervals.items()
    ]
    return _described(figure, f"Bars of {metric} with 95 % intervals: {', '.join(bars)}.")


def confusion(truth, answers, labels):
    """Confusion matrix of `answers` against `truth` (lists of str).

    labels: the right answers there are (list of str); any other counts as "(no label)".
    """
    none = "(no label)"
    named = [answer if answer in labels else none for answer in answers]
    shown = [*labels, none] if none in named else list(labels)
    figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
    # Between two dollar signs matplotlib would read a formula.
    ticks = [label.replace("$", r"\$") for label in shown]
    drawn = ConfusionMatrixDisplay.from_predictions(
        truth, named, labels=shown, display_labels=ticks, ax=axes, cmap="Blues", colorbar=False
    )
    axes.set(title="Given answers against right ones", xlabel="answer given", ylabel="right answer")
    counts = [
        f"right {right}, given {given}: {drawn.confusion_matrix[i, j]}"
        for i, right in enumerate(shown)
        for j, given in enumerate(shown)
    ]
    return _described(figure, f"Confusion matrix. {'; '.join(counts[:100])}.")


def memory_parts(predicted):
    """Stacked bars of predicted memory, a panel for each model.

    predicted: DataFrame in GB with rows (model, how its base is held) and the parts as columns.
    """
    models = predicted.index.get_level_values(0).unique()
    figure, panels = plt.subplots(
        1, len(models), figsize=(11, 4), layout="constrained", squeeze=False
    )
    for axes, model in zip(panels[0], models, strict=True):
        bars = predicted.loc[model]
        bars.plot.bar(stacked=True, ax=axes, legend=False, colormap="tab10", rot=0)
        axes.set(title=model, ylabel="memory (GB)", xlabel="base held as")
        axes.set_ylim(0, 1.06 * bars.sum(axis=1).max())
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside right center")
    sums = [
        f"{model} with {way} {size:.3g} GB" for (model, way), size in predicted.sum(axis=1).items()
    ]
    return _described(
        figure, f"Stacked bars of predicted memory, a panel for each model: {', '.join(sums)}."
    )


def predicted_and_measured(parts, measured):
    """Predicted memory, a part upon another, beside the measured peak.

    parts: {name: MB}; measured: MB.
    """
    figure, axes = _axes("Peak memory of training", "", "memory (MB)")
    base = 0
    for name, size in parts.items():
        axes.bar("predicted", size, bottom=base, label=name)
        base += size
    axes.bar("measured", measured, color=MEASURED)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1, 0.5))
    sizes = ", ".join(f"{name} {size:.0f}" for name, size in parts.items())
    return _described(
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
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
    percent = [100 * part / total for part in parts.values()]
    bars = left.barh(list(parts)[::-1], percent[::-1], color=OTHERS)
    left.bar_label(bars, fmt="%.0f %%", padding=3)
    left.set(title="Forward and backward, by kind of operation", xlabel="share of the time (%)")
    left.set_xlim(0, 105)
    bars = right.barh(list(taken)[::-1], list(taken.values())[::-1], color=OURS)
    right.bar_label(bars, fmt="%.1f s", padding=3)
    right.set(title="One setting after another, the same rows", xlabel="seconds per step")
    right.set_xlim(0, 1.15 * max(taken.values()))
    shares = "; ".join(f"{name} {100 * part / total:.0f} %" for name, part in parts.items())
    seconds = "; ".join(f"{name} {time:.1f} s" for name, time in taken.items())
    return _described(
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
