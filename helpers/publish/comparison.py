"""A merged model beside the adapter it was made from: answers, right ones, and probabilities."""

import pandas as pd
from transformers import AutoModelForCausalLM

from helpers.evaluate import asking, scoring
from helpers.model import loading
from helpers.publish import merge_check

SAMPLES = 2000  # resamples behind each interval


class Adapter:
    """What the adapter on its base answers and expects: every merge is compared with it.

    model, tokenizer: as from `loading.load_adapter`; rows: Dataset with `prompt`, `completion` and
    `answer`; batch_size: questions read at once; seed: int, of the bootstrap; path: Path, where the
    logits are kept.
    Attributes: `answers` (list of str), `correct` (list of 0.0 or 1.0), `accuracy` (0–1) and
    `ci95`, its bootstrap interval; `logits`, an array (positions, vocabulary) on the disk.
    """

    def __init__(self, model, tokenizer, rows, batch_size, seed, path):
        self._tokenizer, self._rows, self._batch_size, self._seed = (
            tokenizer,
            rows,
            batch_size,
            seed,
        )
        self._path = path
        self._room = asking.room(tokenizer, rows["answer"])
        self.answers = [None] * len(rows)
        self.logits = merge_check.record(self._read(model, self.answers), path)
        self.correct = self._correct(self.answers)
        self.accuracy = sum(self.correct) / len(rows)
        self.ci95 = scoring.bootstrap_interval(self.correct, SAMPLES, seed)

    def compare(self, model):
        """A model on the same rows: a dict of figures, those of `merge_check.distance` first.

        `identical_answers`: share of rows (0–1); `accuracy`, its interval `accuracy_ci95`, and
        `accuracy_change` from the adapter's; `accuracy_verdict`: "better", "not shown" or "worse",
        by the paired test of `scoring.compare`.
        """
        answers = [None] * len(self._rows)
        distances = merge_check.distance(self.logits, self._read(model, answers))
        correct, same = self._correct(answers), zip(answers, self.answers, strict=True)
        accuracy = sum(correct) / len(correct)
        paired = scoring.compare(correct, self.correct, SAMPLES, self._seed)
        return {
            **distances,
            "identical_answers": sum(a == b for a, b in same) / len(answers),
            "accuracy_change": accuracy - self.accuracy,
            "accuracy": accuracy,
            "accuracy_ci95": scoring.bootstrap_interval(correct, SAMPLES, self._seed),
            "accuracy_verdict": paired["verdict"],
        }

    def forget(self):
        """Delete the logits from the disk."""
        self.logits = None
        self._path.unlink()

    def _read(self, model, answers):
        """Yields the model's logits at the right answers, and puts its own into `answers`.

        Each batch of questions is read once for both.
        """
        prompts, completions = self._rows["prompt"], self._rows["completion"]
        for batch in asking.read(model, self._tokenizer, prompts, self._batch_size, "questions"):
            for index, found in zip(batch.indices, batch.answer(self._room), strict=True):
                answers[index] = found["text"]
            yield from batch.logits(completions)

    def _correct(self, answers):
        wanted = (text.strip() for text in self._rows["answer"])
        return [float(given == right) for given, right in zip(answers, wanted, strict=True)]


def load(folder, dtype, quantization_config, size):
    """A saved model as someone would load it to serve it.

    quantization_config: BitsAndBytesConfig or None, as saved; size: its bytes as saved.
    """
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        quantization_config=quantization_config,
        device_map=loading.device(0 if quantization_config else size),
    )
    return loading.dequantized(model)


def table(measured):
    """A DataFrame with a row for each merge and way of loading.

    measured: {weights merged into: {way of loading: figures as from `Adapter.compare`}}.
    """
    rows = {
        (weights, way): {
            "right answers": f"{figures['accuracy']:.0%}",
            "same answers": f"{figures['identical_answers']:.0%}",
            "mean KL (nats)": f"{figures['kl_mean']:.4f}",
        }
        for weights, ways in measured.items()
        for way, figures in ways.items()
    }
    return pd.DataFrame(rows).T.rename_axis(["merged into", "loaded"])


def figures(measured, errors):
    """What merge_check.json holds of every merge: {"candidates": …, "quantized_on_loading": …}.

    measured: as in `table`; errors: {weights: (error, name of the worst weight)}, as from
    `merge_check.update_error`. Candidates are figures as saved, {weights: {…}}; the others
    {weights: {way of loading: {…}}}.
    """
    candidates, quantized = {}, {}
    for weights, ways in measured.items():
        error, worst_weight = errors[weights]
        as_saved = {"update_error": error, "worst_weight": worst_weight}
        candidates[weights] = as_saved | ways["as saved"]
        quantized[weights] = {way: row for way, row in ways.items() if way != "as saved"}
    return {"candidates": candidates, "quantized_on_loading": quantized}


def why_not(check):
    """The sentences (str) that say why a merge is not pushed, and what to do.

    check: what merge_check.json holds.
    """
    into = check["merged_into"]
    saved = check["candidates"][into]
    ways = {"as saved": saved, **check["quantized_on_loading"][into]}
    worst = max(check["served"], key=lambda way: ways[way]["kl_mean"])
    return (
        f"This merge is not pushed: mean KL divergence {ways[worst]['kl_mean']:.4f} when loaded "
        f"{worst} (merge_tolerance is {check['merge_tolerance']}), right answers "
        f"{ways[worst]['accuracy']:.1%} (the adapter: {check['adapter_accuracy']:.1%}), update "
        f"error {saved['update_error']:.3f} at {saved['worst_weight'] or 'no weight'} (0.02 is "
        f"allowed). serve_as was '{check['serve_as']}': name the one way of loading that you need, "
        "or raise merge_tolerance."
    )
