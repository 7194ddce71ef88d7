"""A merged model beside the adapter it was made from: answers, right ones, and probabilities."""

import pandas as pd
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from helpers.evaluate import asking, scoring
from helpers.model import loading
from helpers.publish import merge_check, model_folder
from helpers.records import files

SAMPLES = 2000  # resamples behind each interval
ROUNDING = 0.02  # the update error that can remain when sums are rounded to 16 bits
# For each value of serve_as, the ways of loading by which the merge is chosen. GGUF itself cannot
# be measured here; it rounds the weights, as these two do.
SERVED = {
    "anything": ["as saved", "nf4", "int8"],
    "as_saved": ["as saved"],
    "nf4": ["nf4"],
    "gguf": ["nf4", "int8"],
}


def dtype_of(run_dir):
    """The torch dtype in which 03 computed; run_dir: Path."""
    return getattr(torch, files.read_json(run_dir / "03_train" / "metrics.json")["precision"])


def ways(dtype):
    """Every way in which a merged model is measured: {name: BitsAndBytesConfig or None}.

    dtype: torch dtype that is computed in. The configs are those of 02 and 03.
    """
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_use_double_quant=True,
    )
    return {"as saved": None, "nf4": nf4, "int8": BitsAndBytesConfig(load_in_8bit=True)}


class Adapter:
    """What the adapter on its base answers and expects: every merge is compared with it.

    model, tokenizer: as from `loading.load_adapter`; rows: Dataset with `prompt`, `completion` and
    `answer`; batch_size: questions read at once; seed: int, of the bootstrap; folder: Path,
    where the logits are kept in a file, as long as this object lives.
    Attributes: `answers` (list of str), `correct` (list of 0.0 or 1.0), `accuracy` (0–1) and
    `ci95`, its bootstrap interval; `logits`, an array (positions, vocabulary) on the disk.
    """

    def __init__(self, model, tokenizer, rows, batch_size, seed, folder):
        self._tokenizer, self._rows = tokenizer, rows
        self._batch_size, self._seed = batch_size, seed
        self._room = asking.room(tokenizer, rows["answer"])
        self.answers = [None] * len(rows)
        path = folder / ".reference"
        self.logits = merge_check.record(self._read(model, self.answers), path)
        path.unlink()  # it stays readable until this object is gone
        self.correct = self._correct(self.answers)
        self.accuracy = sum(self.correct) / len(rows)
        self.ci95 = scoring.bootstrap_interval(self.correct, SAMPLES, seed)

    def compare(self, folder, dtype, quantization_config):
        """A saved model on the same rows: a dict of figures, `merge_check.distance`'s first.

        It is loaded as someone would who serves it. folder: Path; dtype: torch dtype;
        quantization_config: BitsAndBytesConfig, or None for as it was saved.
        `identical_answers`: share of rows (0–1); `accuracy`, its interval `accuracy_ci95`, and
        `accuracy_change` from the adapter's; `accuracy_verdict`: "better", "not shown" or "worse",
        by the paired test of `scoring.compare`.
        """
        answers, model = [None] * len(self._rows), load(folder, dtype, quantization_config)
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


def load(folder, dtype, quantization_config):
    """A saved model as someone would load it to serve it; arguments as of `Adapter.compare`."""
    size = 0 if quantization_config else model_folder.size(folder)
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        quantization_config=quantization_config,
        device_map=loading.device(size),
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
        for weights, found in measured.items()
        for way, figures in found.items()
    }
    return pd.DataFrame(rows).T.rename_axis(["merged into", "loaded"])


def holds(figures, tolerance):
    """True when a merge keeps the adapter's answers; figures: as from `Adapter.compare`.

    Its right answers are not fewer (by a paired test), and its mean KL divergence is at most
    `tolerance` (nats).
    """
    return figures["accuracy_verdict"] != "worse" and figures["kl_mean"] <= tolerance


def certificate(adapter, measured, errors, serve_as, merged_into, tolerance):
    """What merge_check.json holds, as a dict.

    adapter: Adapter; measured: as in `table`; errors: {weights: (error, name of the worst weight)},
    as from `merge_check.update_error`; serve_as, tolerance: 04's parameters; merged_into: the
    chosen weights. `candidates`: {weights: figures as saved}; `quantized_on_loading`:
    {weights: {way: figures}}; `holds`: {way: True or False} of the chosen merge;
    `within_tolerance`: it holds in all ways of `served`, and every weight is right.
    """
    candidates, quantized = {}, {}
    for weights, found in measured.items():
        error, worst_weight = errors[weights]
        as_saved = {"update_error": error, "worst_weight": worst_weight}
        candidates[weights] = as_saved | found["as saved"]
        quantized[weights] = {way: row for way, row in found.items() if way != "as saved"}
    verdicts = {way: holds(row, tolerance) for way, row in measured[merged_into].items()}
    right_weights = errors[merged_into][0] <= ROUNDING
    return {
        "validation_rows": len(adapter.answers),
        "serve_as": serve_as,
        "served": SERVED[serve_as],
        "rule": "smallest worst mean KL divergence among the ways served",
        "merged_into": merged_into,
        "holds": verdicts,
        "within_tolerance": right_weights and all(verdicts[way] for way in SERVED[serve_as]),
        "merge_tolerance": tolerance,
        "adapter_accuracy": adapter.accuracy,
        "adapter_accuracy_ci95": adapter.ci95,
        "identical_answers": candidates[merged_into]["identical_answers"],
        "candidates": candidates,
        "quantized_on_loading": quantized,
    }


def gate(check, push_to):
    """Raise ValueError, with what to do, when a merge that is to be pushed does not hold.

    check: as from `certificate`; push_to: 04's parameter.
    """
    if push_to == "none" or check["within_tolerance"]:
        return
    saved = check["candidates"][check["merged_into"]]
    found = {"as saved": saved, **check["quantized_on_loading"][check["merged_into"]]}
    worst = max(check["served"], key=lambda way: found[way]["kl_mean"])
    raise ValueError(
        f"This merge is not pushed: mean KL divergence {found[worst]['kl_mean']:.4f} when loaded "
        f"{worst} (merge_tolerance is {check['merge_tolerance']}), right answers "
        f"{found[worst]['accuracy']:.1%} (the adapter: {check['adapter_accuracy']:.1%}), update "
        f"error {saved['update_error']:.3f} at {saved['worst_weight'] or 'no weight'} ({ROUNDING} "
        f"is allowed). serve_as is '{check['serve_as']}': name the one way of loading that you "
        "need, or raise merge_tolerance."
    )
