"""The figures: each shows what it is given, and says it in words for those who cannot see it."""

from types import SimpleNamespace

import matplotlib

matplotlib.use("agg")  # no window, on a machine without a screen
import matplotlib.pyplot as plt
import pytest
from IPython.core.formatters import DisplayFormatter
from matplotlib.colors import to_rgba

from helpers import plots


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def said(figure):
    """The figure's words, as IPython puts them into a notebook's output and nbconvert into HTML."""
    figure.canvas.draw()
    _, metadata = DisplayFormatter().format(figure)
    return metadata["image/png"]["alt"]


def test_token_lengths_mark_median_longest_and_the_limit():
    near, far = plots.token_lengths([10, 20, 30], 40), plots.token_lengths([10, 20, 30], 512)
    assert [line.get_xdata()[0] for line in near.axes[0].lines] == [40, 20, 30]
    assert [line.get_xdata()[0] for line in far.axes[0].lines] == [20, 30]
    texts = [text.get_text() for text in far.axes[0].texts]
    assert texts[0].startswith("max_length 512") and texts[1:] == ["median 20", "longest 30"]
    assert said(near) == "Histogram of 3 examples: 10 to 30 tokens, median 20; max_length is 40."


HISTORY = [
    {"step": 2, "loss": 4.0},
    {"step": 4, "eval_loss": 3.0},
    {"step": 4, "loss": 2.0},
    {"step": 8, "eval_loss": 1.5},
    {"step": 9, "eval_loss": 1.75},
    {"train_runtime": 9.0},
]


def test_losses_are_drawn_by_step_and_saved_with_the_best_step_marked(tmp_path):
    figure = plots.losses(HISTORY, tmp_path / "loss.png")
    raw, training, validation, best = figure.axes[0].lines
    assert list(raw.get_xdata()) == [2, 4] and list(raw.get_ydata()) == [4, 2]
    assert list(training.get_ydata()) == [4, 2]  # too few to smooth
    assert list(validation.get_xdata()) == [4, 8, 9]
    assert list(best.get_xdata()) == [8] and list(best.get_ydata()) == [1.5]
    assert figure.axes[0].get_yscale() == "linear"
    assert (tmp_path / "loss.png").stat().st_size > 1000
    assert said(figure) == (
        "Curves over the optimizer steps: training loss from 4 to 2, smoothed; validation loss "
        "from 3 at step 4 to 1.8 at step 9, lowest at step 8 with 1.5."
    )


def test_training_loss_is_smoothed_and_its_start_does_not_flatten_the_rest(tmp_path):
    noisy = [{"step": step, "loss": 6.0 if step == 0 else step % 2 * 0.4} for step in range(40)]
    history = [*noisy, {"step": 20, "eval_loss": 0.3}, {"step": 39, "eval_loss": 0.2}]
    figure = plots.losses(history, tmp_path / "loss.png")
    axes = figure.axes[0]
    assert axes.get_ylim()[1] < 1.5 and "begins at 6.0" in axes.texts[-1].get_text()
    smooth = axes.lines[1].get_ydata()
    assert max(abs(smooth[3:-3] - 0.2)) < 0.01


def test_scores_stand_in_the_order_given_with_their_intervals():
    intervals = {"majority": (0.5, (0.44, 0.56)), "merged": (0.89, (0.86, 0.93))}
    figure = plots.scores(intervals, "exact_match")
    axes = figure.axes[0]
    assert [patch.get_width() for patch in axes.patches] == pytest.approx([89, 50])  # from below
    assert [patch.get_facecolor() for patch in axes.patches] == [
        to_rgba(plots.TUNED),
        to_rgba(plots.BASE),
    ]
    assert axes.get_xlabel() == "exact match (%)"
    assert said(figure) == (
        "Bars of exact match with 95 % intervals: always the same answer 50 % (44 to 56), "
        "tuned (merged) 89 % (86 to 93). A line at 50 %, where the constant answer ends."
    )


def test_scores_have_a_line_at_the_constant_answer():
    intervals = {"majority": (0.6, (0.5, 0.7)), "merged": (0.8, (0.7, 0.9))}
    legend = plots.scores(intervals, "accuracy").axes[0].get_legend_handles_labels()
    ((line,), words) = legend
    assert list(line.get_xdata()) == [60, 60] and words == ["always the same answer"]
    del intervals["majority"]
    assert plots.scores(intervals, "accuracy").axes[0].get_legend() is None


def test_scores_of_a_system_that_is_always_right_have_no_negative_whisker():
    assert "100 % (100 to 100)" in said(plots.scores({"a": (1.0, (1.0, 1 - 1e-16))}, "accuracy"))


def test_confusion_counts_and_shows_dollars_as_they_are():
    labels = ["$5_$9", "none"]
    figure = plots.confusion(["$5_$9", "none"], ["none", "none"], labels)
    assert said(figure) == (
        "Confusion matrix. right $5_$9, given $5_$9: 0; right $5_$9, given none: 1; "
        "right none, given $5_$9: 0; right none, given none: 1."
    )
    assert "given (no label): 1" in said(plots.confusion(["none"], ["perhaps"], labels))


def test_lora_is_drawn_to_scale_and_counted():
    figure = plots.lora(1000, 500, 16)
    w, b, a, adapted, _ = figure.axes[0].patches
    assert (w.get_width(), w.get_height()) == (1000, 500)
    assert (b.get_width(), b.get_height()) == (16, 500)
    assert (a.get_width(), a.get_height()) == (1000, 16)
    assert w.get_facecolor() == adapted.get_facecolor() != a.get_facecolor()
    assert "24,000 weights together" in said(figure)


def test_memory_is_stacked_by_what_it_is_for_and_cut_at_the_largest_gpu():
    small = {"weights": 5e9, "quantization constants": 1e9, "adapters": 1e9, "logits": 2e9}
    figure = plots.memory({"small": small, "large": {"trained weights": 200e9}}, (16, 80))
    widths = [patch.get_width() for patch in figure.axes[0].patches]
    assert widths == [6, 1, 2, 0, 0, 200, 0, 0]
    assert figure.axes[0].get_xlim()[1] < 100
    shown = {text.get_text() for text in figure.axes[0].texts}
    assert shown == {"9.0 GB", "200 GB → ", "16 GB", "80 GB"}
    assert "small 9.0 GB, of it frozen weights 6.0; large 200.0 GB" in said(figure)
    assert "Lines at 16 GB, 80 GB" in said(figure)


def test_predicted_parts_are_stacked_beside_what_was_measured():
    figure = plots.predicted_and_measured({"weights": 100.0, "logits": 20.0}, 150.0)
    tops = [patch.get_y() + patch.get_height() for patch in figure.axes[0].patches]
    assert tops == [100, 100, 120, 120, 150]
    assert said(figure) == (
        "Two bars of memory: predicted 120 MB (weights 100, logits 20), measured 150 MB."
    )


def test_training_time_sorts_operations_by_kind():
    def event(name, time):
        return SimpleNamespace(key=name, self_cpu_time_total=time)

    events = [event("aten::mm", 60), event("aten::_to_copy", 20), event("aten::exp", 20)]
    profiled = SimpleNamespace(key_averages=lambda: events)
    words = said(plots.training_time(profiled, {"stock": 2.0, "packed": 0.5}))
    assert "matrix products 60 %" in words and "conversions of precision, copies 20 %" in words
    assert f"{plots.REST} 20 %" in words and "stock 2.0 s; packed 0.5 s" in words
    assert "dropout" not in words  # no bar of 0 %
