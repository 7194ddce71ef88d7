"""Pictures of 04: what quantizing again does to a merged weight, and which merge survives it."""

import matplotlib.pyplot as plt
from bitsandbytes import functional

from helpers import plots

LABELS = {"as saved": "as saved", "nf4": "in NF4", "int8": "in int8"}
COLOURS = {"full precision": plots.TUNED, "dequantized": plots.BASE}


def served(measured, adapter_accuracy):
    """Bars: right answers of each merge, loaded in each way; a line for the adapter's.

    measured: {weights merged into: {way of loading: {"accuracy": 0–1, …}}}. Returns a figure.
    """
    title = "Right answers after the merge"
    figure, axes = plots.new_axes(title, "how the model is loaded", "right answers (%)", (8, 4.5))
    width, told = 0.8 / len(measured), []
    for place, (weights, ways) in enumerate(measured.items()):
        shares = [100 * figures["accuracy"] for figures in ways.values()]
        where = [index + (place - (len(measured) - 1) / 2) * width for index in range(len(ways))]
        bars = axes.bar(where, shares, width * 0.94, color=COLOURS[weights])
        bars.set_label(f"merged into {weights.replace(' ', '-')} weights")
        # On white, or the line would strike some of them through.
        paper = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axes.bar_label(bars, fmt="%.0f", padding=3, fontsize=12, bbox=paper)
        told += [f"{weights}, {LABELS[w]}: {s:.0f} %" for w, s in zip(ways, shares, strict=True)]
    line = 100 * adapter_accuracy
    axes.axhline(line, color=plots.MEASURED, linestyle="--", label="adapter, before the merge")
    axes.set_xticks(range(len(ways)), [LABELS[way] for way in ways])
    axes.set_ylim(0, 112)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return plots.described(figure, f"Adapter: {line:.0f} % right. Merged into {'; '.join(told)}.")


def rounding(weight, update):
    """Where weights lie between the two points at which rounding to NF4 changes its mind.

    weight, update: tensors of one layer, in whole blocks of 64. Left: dequantized weights, all of
    them on a level; right: full-precision weights. Shaded: what the median update can carry
    across. Returns a figure.
    """
    levels = functional.get_4bit_type("nf4", device="cpu")
    blocks, changes = weight.reshape(-1, 64).float(), update.reshape(-1, 64).float()
    largest = blocks.abs().amax(dim=1, keepdim=True)
    scaled, changes = blocks / largest, changes / largest
    nearest = (scaled[..., None] - levels).abs().argmin(dim=-1)
    middles = (levels[1:] + levels[:-1]) / 2
    inner = (nearest > 0) & (nearest < len(levels) - 1)  # the outermost have one neighbour only
    low, high = middles[nearest[inner] - 1], middles[nearest[inner]]
    width = high - low
    reach = float((changes[inner].abs() / width).median())
    starts = {"dequantized": levels[nearest[inner]], "full-precision": scaled[inner]}
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axes, (name, start) in zip(panels, starts.items(), strict=True):
        axes.hist(((start - low) / width).numpy(), bins=40, range=(0, 1), color=plots.BASE)
        for edge in ((0, reach), (1 - reach, 1)):
            axes.axvspan(*edge, color=plots.ADAPTER, alpha=0.8)
        axes.set(xlim=(0, 1), yticks=[], ylabel="weights")
        axes.set_xticks(
            [0, 0.5, 1], ["to the next\nlower level", "its level", "to the next\nhigher level"]
        )
        axes.set_title(f"{name} weights", size=15)
        axes.tick_params(labelsize=12)
    figure.suptitle(
        f"Where rounding takes a weight. Orange: the reach of the median update ({reach:.1%})"
    )
    return plots.described(
        figure,
        "Two histograms of weights between two points of rounding: dequantized weights stand in "
        f"the middle, full-precision ones everywhere; the median update reaches {reach:.1%} of "
        "the way, so it moves hardly any of the first across.",
    )
