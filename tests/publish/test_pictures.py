"""Pictures of 04: they show what was measured, and say it in words."""

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import pytest
import torch
from IPython.core.formatters import DisplayFormatter

from helpers.publish import pictures


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def said(figure):
    figure.canvas.draw()
    return DisplayFormatter().format(figure)[1]["image/png"]["alt"]


def test_every_way_has_a_bar_for_each_merge():
    ways = {way: {"accuracy": 0.8} for way in pictures.LABELS}
    measured = {"full precision": ways, "dequantized": ways | {"nf4": {"accuracy": 0.0}}}
    figure = pictures.served(measured, 0.9)
    heights = sorted(round(bar.get_height()) for bar in figure.axes[0].patches)
    assert heights == [0, 80, 80, 80, 80, 80]
    assert "Adapter: 90 % right" in said(figure) and "dequantized, as saved: 80 %" in said(figure)
    assert len(pictures.served({"full precision": ways}, 0.9).axes[0].patches) == 3


def test_dequantized_weights_stand_in_the_middle_and_the_others_everywhere():
    torch.manual_seed(0)
    weight, update = torch.randn(64, 64), 0.01 * torch.randn(64, 64)
    figure = pictures.rounding(weight, update)
    rounded, exact = (
        [bar.get_height() for bar in axes.patches[:40]]  # the last two are the shaded edges
        for axes in figure.axes
    )
    assert sum(rounded[:8] + rounded[-8:]) == 0 and min(exact) > 0
    assert "hardly any" in said(figure)
