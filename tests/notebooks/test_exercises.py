"""Exercises: learners' versions follow from solutions; checks tell right from wrong, and why."""

import json
import shutil

import bitsandbytes.functional as F
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from nbclient import NotebookClient
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    get_cosine_schedule_with_warmup,
    set_seed,
)

from course import exercises
from helpers import checking
from helpers.data import chats
from helpers.model import loading
from helpers.records import files, folders, parameters


def test_learners_versions_are_in_step(tmp_path, monkeypatch):
    assert exercises.out_of_step() == []
    for path in (exercises.solutions()[0], exercises.learners_path(exercises.solutions()[0])):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(exercises, "FOLDER", tmp_path)
    assert exercises.out_of_step() == []
    path = exercises.learners_path(exercises.solutions()[0])
    path.write_text(path.read_text(encoding="utf-8").replace("= ...", "= 1", 1), encoding="utf-8")
    assert exercises.out_of_step() == [path.name]


def test_missing_results_get_one_sentence_that_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_RUN_DIR", str(tmp_path))
    said = "03_train has not been run .* run 03_train first.*python -m course catch-up 03"
    with pytest.raises(checking.NotYet, match=said):
        checking.results("03_train")


def merged_by_peft(folder, adapter, model, tokenizer):
    """Merge into weights that were rounded to NF4, with PEFT's own code."""
    base = AutoModelForCausalLM.from_pretrained(model)
    for name, weight in base.named_parameters():
        if "proj" in name:
            quantized = F.quantize_4bit(weight.data, quant_type="nf4", compress_statistics=True)
            weight.data = F.dequantize_4bit(*quantized)
    loading.add_pad_row(base, tokenizer)
    PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def adapted(folder, model, tokenizer):
    """An adapter with updates under half a step of NF4 in the first layer, large in the second."""
    base = AutoModelForCausalLM.from_pretrained(model)
    loading.add_pad_row(base, tokenizer)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    tuned = get_peft_model(base, lora)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.002 if "layers.0" in name else 0.3)
    tuned.save_pretrained(folder, save_embedding_layers=False)


def logged(steps, peak):
    """What the Trainer would log: a falling loss, a validation loss that turns, a cosine rate."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    schedule = get_cosine_schedule_with_warmup(optimizer, 3, steps)
    history = []
    for step in range(1, steps + 1):
        when, rate = {"step": step, "epoch": 3 * step / steps}, schedule.get_last_lr()[0]
        history.append({**when, "loss": 4 / step + 0.01 * (step % 3), "learning_rate": rate})
        optimizer.step()
        schedule.step()
        if step % 6 == 0:
            history.append({**when, "eval_loss": 0.6 + 0.001 * (step - 14) ** 2})
    return history


def answered(rows):
    """Answers of five systems to test rows, of known quality."""
    generator = np.random.default_rng(3)
    right = pd.Series(generator.choice(["relevant", "irrelevant"], rows))
    flip = {"relevant": "irrelevant", "irrelevant": "relevant"}
    merged = right.where(generator.random(rows) < 0.9, right.map(flip))
    return pd.DataFrame(
        {
            "id": [f"t{i}" for i in range(rows)],
            "answer": right,
            "majority": "relevant",
            "tfidf_logreg": right.where(generator.random(rows) < 0.8, right.map(flip)),
            "base_zero_shot": "The document",
            "adapter": merged.where(generator.random(rows) < 0.98, merged.map(flip)),
            "merged": merged,
            "stopped": True,
            "confidence": 0.9,
        }
    )


SYSTEM_PROMPT = (
    "Does the document report or ask about a problem with drinking water, its quality or its "
    "supply? Answer relevant or irrelevant."
)


@pytest.fixture(scope="module")
def small_run(tiny, tmp_path_factory):
    """A run directory put together by hand.

    It holds real rows, a tiny random model and its adapter, made-up losses and answers.
    """
    set_seed(1)
    folder = tmp_path_factory.mktemp("run")
    model = folder / "model"
    learns_fast = AutoConfig.from_pretrained(tiny, initializer_range=0.1)
    LlamaForCausalLM(learns_fast).save_pretrained(model)
    parameters = {
        "01_data": {"model_id": str(model)},
        "04_merge_push": {},
        "05_evaluate": {},
        "03_train": {"learning_rate": 1e-3, "warmup_ratio": 0.1, "epochs": 3.0},
    }
    for name, values in parameters.items():
        (folder / name).mkdir()
        manifest = {"parameters": values, "results": ""}
        files.write_json(folder / name / "manifest.json", manifest)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_special_tokens({"pad_token": loading.PAD_TOKEN})
    tokenizer.save_pretrained(folder / "01_data" / "tokenizer")
    table = pd.read_csv(folders.REPOSITORY / "data" / "inbox.csv", dtype=str)
    longest = table.loc[table["question"].str.len().sort_values(ascending=False).index]
    for name, part in (("train", longest[:450]), ("validation", longest[450:530])):
        write_rows(folder / "01_data" / f"{name}.jsonl", name, part)
    adapter = folder / "03_train" / "adapter"
    adapted(adapter, model, tokenizer)
    metrics = {"steps": 24, "log_history": logged(24, 1e-3)}
    files.write_json(folder / "03_train" / "metrics.json", metrics)
    merged_by_peft(folder / "04_merge_push" / "merged", adapter, model, tokenizer)
    files.write_json(folder / "04_merge_push" / "merge_check.json", {"merged_into": "dequantized"})
    predictions = folder / "05_evaluate" / "predictions.jsonl"
    answered(300).to_json(predictions, orient="records", lines=True)
    return folder


def write_rows(path, name, table):
    """Write the rows of `table` (DataFrame) to `path` as 01 does; their ids begin with `name`."""
    lines = []
    for number, (question, answer) in enumerate(
        zip(table["question"], table["answer"], strict=True)
    ):
        row = {
            "id": f"{name}{number}",
            "question": question,
            "answer": answer,
            "prompt": chats.messages(SYSTEM_PROMPT, question),
            "completion": [{"role": "assistant", "content": answer}],
        }
        lines.append(json.dumps(row))
    path.write_text("\n".join(lines), encoding="utf-8")


@pytest.fixture
def there(small_run, monkeypatch):
    """In the exercises' folder, with the small run as run directory."""
    monkeypatch.setenv("COURSE_RUN_DIR", str(small_run))
    monkeypatch.chdir(exercises.FOLDER)
    monkeypatch.syspath_prepend(str(exercises.FOLDER))


def cells(path):
    """Sources of the notebook's code cells, without the set-up."""
    notebook = nbformat.read(path, 4)
    return [
        cell.source
        for cell in notebook.cells
        if cell.cell_type == "code" and "setup" not in cell.metadata.get("tags", [])
    ]


def new_namespace():
    return {"display": lambda *_, **__: None}


def run_cell(source, namespace):
    """Run a cell in this process, which takes seconds less than a kernel."""
    exec(source, namespace)


def is_check(source):
    return source.startswith("checks.")


@pytest.mark.parametrize("name", parameters.NOTEBOOKS)
def test_no_check_passes_before_it_is_filled_in(name, there):
    namespace, found = new_namespace(), 0
    for source in cells(exercises.FOLDER / f"{name}.ipynb"):
        if is_check(source):
            with pytest.raises(checking.NotYet, match="give .* a value"):
                run_cell(source, namespace)
            found += 1
        else:
            run_cell(source, namespace)
    assert 3 <= found <= 5


@pytest.mark.slow
@pytest.mark.slow
def test_a_learner_s_notebook_in_a_real_kernel(there):
    notebook = nbformat.read("05_evaluate.ipynb", 4)
    NotebookClient(notebook, timeout=120, kernel_name="python3", allow_errors=True).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            errors = [output for output in cell.outputs if output.output_type == "error"]
            wanted = ["NotYet"] if is_check(cell.source) else []
            assert [error.ename for error in errors] == wanted
            for error in errors:
                [line] = error.traceback
                assert line.startswith("Not yet: give ")


ENDS = (
    "np.percentile(np.random.default_rng(1).choice(c, (2000, {rows})).mean(axis=1), "
    "[{cut}, 100 - {cut}])"
)
WRONG = {  # notebook: exercise: (what a learner may have written, what the hint says)
    "01_data": [
        [
            ("trained_text = 'irrelevant'", "learn to stop"),
            ("trained_text = 'irrelevant<|im_end|>'", "nearly"),
            ("trained_text = '<|im_start|>assistant\\n' + trained_text", "who speaks next"),
            ("trained_text = 'relevant<|im_end|>\\n' + trained_text", "only read"),
            ("trained_text = 'relevant'", "last answer"),
            ("first_answer_trained = True", "stands in the prompt"),
            ("first_answer_trained = 'no'", "True or False"),
        ],
        [
            (
                "train_on_nothing = [i for i, n in zip(train['id'], tokens) if n > limit]",
                "keep a part of its answer",
            ),
            ("train_on_nothing = train_on_nothing[1:]", "lacks a row"),
            ("train_on_nothing = train_on_nothing + cannot_stop[:1]", "is left"),
            ("cannot_stop = []", "cannot_stop lacks"),
            ("cannot_stop = cannot_stop + train_on_nothing[:1]", "other list alone"),
            (
                "cannot_stop = cannot_stop + [i for i, n in zip(train['id'], tokens) "
                "if n == limit + 1]",
                "keeps the mark",
            ),
            ("needed = limit", "still lose"),
            ("needed = 512", "smaller limit"),
            ("needed = '120'", "should be a number"),
        ],
        [
            ("copies = train.sample(50, random_state=1)", "let it change every one"),
            ("copies = copies.assign(question='something else')", "changes too much"),
            ("honest, leaky = leaky, honest", "mixed up"),
            (
                "honest = (rival.predict(train['question']) == train['answer']).mean()",
                "not learned from",
            ),
            ("leaky = 100 * leaky", "between 0 and 1"),
            ("leaky = leaky - 0.01", "on the copies"),
            ("recognised = nearest.mean()", "largest similarity"),
        ],
        [
            (
                "old = padding; padding = lambda n, size: old(n, size) / (1 - old(n, size))",
                "counts among them",
            ),
            ("padding = lambda n, size: 1 - sum(n) / (max(n) * len(n))", "own longest row"),
            ("old = padding; padding = lambda n, size: 1 - old(n, size)", "real tokens"),
            ("as_they_come, by_length = by_length, as_they_come", "mixed up"),
            ("by_length = as_they_come", "sorted"),
            ("guess = 25", "guess"),
        ],
    ],
    "02_quantize_and_lora": [
        [
            ("small_qv = 30 * 8 * 4 * 576", "not square"),
            ("large_qv = large_qv / 32", "one block"),
            ("large_qv = large_qv // 8", "rank 1"),
            ("large_mlp = 32 * 8 * (2 * 4096 + 14_336)", "one of the two matrices"),
            ("small_qv = 30 * (576 * 576 + 576 * 192)", "frozen"),
            ("large_mlp = 14_000_000", "What are they here"),
        ],
        [
            ("doubling = '100 %'", "which parts"),
            ("doubling = 2", "should be"),
            ("highest_nf4 *= 2", "less than a tenth"),
            ("highest_nf4 = 256", "does not fit"),
            ("highest_int8 = 8", "higher rank"),
            ("highest_8bit_adam = 100", "should be one of"),
        ],
        [
            ("errors = {size: 100 * error for size, error in errors.items()}", "not percent"),
            ("errors = dict.fromkeys(blocks, errors[64])", "errors[128]"),
            ("errors = {64: errors[64]}", "lacks"),
            ("bits = dict.fromkeys(blocks, 4)", "take room"),
            ("bits = {size: 4 + 4 / size for size in blocks}", "How many bits"),
            ("prediction = 'falls'", "should be"),
        ],
        [
            ("sharing_nf4 = 16", "02 tells you"),
            ("sharing_int8 = weight.shape[0]", "number of rows"),
            ("sharing_int8 = 64", "one scale for each row"),
            ("changed_nf4 += 1", "itself does not count"),
            ("changed_int8 = int((int8(spoiled) != spoiled).sum())", "before and after"),
            ("changed_int8 = 63", "count where the two differ"),
        ],
    ],
    "03_train": [
        [
            ("rows_per_update = 4", "takes a step"),
            ("rows_per_update = 32", "every process"),
            ("rows_per_update = 8", "added up first"),
            ("updates_per_epoch = len(train) / 64", "whole number"),
            ("updates_per_epoch = len(train) // 64", "not dropped"),
            ("updates_per_epoch *= 3", "of one epoch"),
            ("repeated = 64 - repeated", "missing"),
            ("warmup = 1", "whole run"),
            ("warmup = 2.4", "rounded up"),
        ],
        [
            ("rate = lambda update: peak", "what is rate(0)"),
            ("old = rate; rate = lambda update: old(max(update - 1, 0))", "off by one"),
            (
                "old = rate; rate = lambda u: old(u) if u < warmup_updates "
                "else peak * (1 + math.cos(math.pi * u / steps)) / 2",
                "at its peak",
            ),
            (
                "old = rate; rate = lambda u: "
                "min(old(u), peak * (steps - u) / (steps - warmup_updates))",
                "half a cosine",
            ),
            (
                "old = rate; rate = lambda u: old(u) if u in (0, 3) or u > 3 else peak",
                "straight line",
            ),
        ],
        [
            ("best_step = max(watched)", "is not the lowest"),
            ("best_step = 6", "a lower one"),
            ("best_step = 1", "position in a list"),
            ("last_epoch = losses['loss'].mean()", "of the last epoch alone"),
            ("last_epoch = losses['loss'].iloc[-1]", "Take the mean"),
            ("gap = -gap", "other way round"),
            ("gap = best_step", "less last_epoch"),
        ],
        [
            ("result = default", "change one"),
            ("result = {**result, 'rows': 2 * default['rows']}", "longer run"),
            ("result = {**result, 'loss': 0.95 * default['loss']}", "may be luck"),
            ("result = {**result, 'loss': 2 * default['loss']}", "not lower"),
            ("result = {**result, 'loss': math.nan}", "far too high"),
            ("result = 0.1", "what try_out returns"),
        ],
    ],
    "04_merge_push": [
        [
            ("scale = 8", "alpha alone"),
            ("scale = 0.5", "other way round"),
            ("scale = 4", "two numbers"),
            ("mine = start", "update is missing"),
            ("mine = start - update", "subtracted"),
            ("mine = W + update", "Which weights"),
            ("mine = start + B @ A", "not scaled"),
            ("mine = mine.T", "in which order"),
            ("mine = start + 3 * update", "start + scale"),
        ],
        [
            ("old = kl; kl = lambda before, after: old(after, before)", "other way round"),
            ("old = kl; kl = lambda a, b: old(a, b) / math.log(2)", "in bits"),
            ("old = kl; kl = lambda a, b: -old(a, b)", "sign"),
            ("old = kl; kl = lambda a, b: old(a, b) / len(a)", "not a mean"),
            (
                "kl = lambda a, b: (a.log_softmax(0) - b.log_softmax(0)).sum()",
                "by the token's probability",
            ),
            ("kl = lambda a, b: (a.softmax(0) * (a - b)).sum()", "not yet log-probabilities"),
            ("symmetric = True", "try kl(a, b)"),
        ],
        [
            ("prediction = 7", "should be one of"),
            ("logits = {**logits, 0.5: logits[2]}", "from which factor"),
            ("logits = {1: logits[1]}", "with the factors"),
            (
                "divergences = {f: 2 * value for f, value in divergences.items()}",
                "mean over the rows",
            ),
            ("changed = {f: 1 - value for f, value in changed.items()}", "stays the same"),
            ("changed = dict.fromkeys(factors, 0.4)", "differs from"),
        ],
        [
            ("left_full, left_dequantized = left_dequantized, left_full", "mixed up"),
            ("left_full = 1", "quantized again as well"),
            ("left_dequantized = left_full", "quantized before"),
            ("left_full = 0.5", "along the update"),
            ("prediction = 'both'", "should be"),
        ],
    ],
    "05_evaluate": [
        [
            ("my_interval = lambda c: (np.mean(c), np.mean(c))", "with replacement"),
            ("my_interval = lambda c: tuple(np.percentile(c, [2.5, 97.5]))", "far too wide"),
            (f"my_interval = lambda c: {ENDS.format(rows='len(c)', cut=5)}", "90 %"),
            (f"my_interval = lambda c: {ENDS.format(rows='10 * len(c)', cut=2.5)}", "too narrow"),
            (
                "old = my_interval; my_interval = lambda c: [100 * end for end in old(c)]",
                "between 0 and 1",
            ),
            ("old = my_interval; my_interval = lambda c: old(c)[::-1]", "mixed up"),
            ("my_interval = lambda c: np.std(c)", "two numbers"),
        ],
        [
            (
                "table = {**table, 'only_first': table['only_second'], "
                "'only_second': table['only_first']}",
                "mixed up",
            ),
            ("table = {**table, 'only_first': first.sum()}", "the other wrong"),
            ("table = {**table, 'both': 0}", "both is not right"),
            ("p_value /= 2", "one side"),
            (
                "p_value = min(1, 2 * sum(math.comb(300, k) for k in range(fewer + 1)) / 2**300)",
                "only where the two differ",
            ),
            ("p_value = 0.05", "a fair coin"),
        ],
        [
            ("verdicts = dict.fromkeys(comparisons, 'better')", "Is 0 among them"),
            ("verdicts = dict.fromkeys(comparisons, 'not shown')", "outside the interval"),
            ("verdicts = {**verdicts, list(verdicts)[0]: 'worse'}", "which side of 0"),
            ("verdicts = dict.fromkeys(comparisons, 'yes')", "write"),
        ],
        [
            ("here /= 4", "6 from end to end"),
            ("here /= 1.96**2", "not within one"),
            ("here = here ** 0.5", "square root"),
            ("here /= 1e4", "3 points are 0.03"),
            ("worst = here", "largest error"),
        ],
        [
            ("best_of = lambda models, rows, accuracy: accuracy", "not of the best"),
            ("best_of = lambda models, rows, accuracy: 80", "between 0 and 1"),
            ("best_of = lambda models, rows, accuracy: 0.95", "single model"),
            ("best_of = lambda n, rows, accuracy: 0.8 if n == 1 else 0.95", "too high"),
            ("best_of = lambda n, rows, accuracy: 0.8 + 0.002 * n * (n > 1)", "keep the highest"),
            ("best = 0.8", "best should be"),
            ("guess = 85", "guess"),
        ],
    ],
}


@pytest.mark.parametrize("name", parameters.NOTEBOOKS)
def test_solutions_pass_and_wrong_answers_get_their_hint(name, there, capsys):
    namespace, tried, said = new_namespace(), iter(WRONG[name]), {}
    for source in cells(exercises.FOLDER / f"{name}_solution.ipynb"):
        capsys.readouterr()
        run_cell(source, namespace)
        if not is_check(source):
            continue
        assert capsys.readouterr().out.startswith("Right")
        for answer, hint in next(tried):
            spoiled = dict(namespace)
            run_cell(f"import math\n{answer}", spoiled)
            try:
                run_cell(source, spoiled)
                said[answer] = "Right"
            except checking.NotYet as found:
                said[answer] = str(found) if hint not in str(found) else None
    assert not list(tried) and not {answer: hint for answer, hint in said.items() if hint}
