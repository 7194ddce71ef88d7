"""Checks of the exercises, one function each.

A check computes the truth itself and raises NotYet with a hint where an answer is missing or wrong.
"""

import functools
import json
import math
from pathlib import Path

import bitsandbytes.functional as F
import numpy as np
import torch
from peft import LoraConfig
from safetensors import safe_open
from transformers import LlamaConfig

from helpers import checking
from helpers.checking import expect, given, number
from helpers.data import chats, splits
from helpers.evaluate import scoring
from helpers.model import loading, memory
from helpers.records import files, manifests


def _near(value, truth, tolerance):
    """True when `value` is within `tolerance` (a share) of `truth`."""
    return abs(value - truth) <= tolerance * abs(truth) + 1e-12


def _yes_or_no(name, answer):
    """`answer` as a bool. Raises NotYet when it is neither True nor False."""
    expect(isinstance(answer, (bool, np.bool_)), f"{name} should be True or False.")
    return bool(answer)


def _table(name, answer, keys):
    """{key: float} of `answer`, which must be a dict with these keys."""
    expect(isinstance(answer, dict), f"{name} should be a dict.")
    missing = [key for key in keys if key not in answer]
    expect(not missing, f"{name} lacks {missing}.")
    return {key: number(f"{name}[{key!r}]", answer[key]) for key in keys}


def _share(name, answer):
    """`answer` as a float. Raises NotYet when it is no share between 0 and 1."""
    share = number(name, answer)
    expect(0 <= share <= 1, f"{name} should be a share between 0 and 1.")
    return share


def _to_nf4_and_back(weight, **options):
    """`weight` (tensor) as it is read back from NF4; options: of `quantize_4bit`."""
    return F.dequantize_4bit(*F.quantize_4bit(weight, quant_type="nf4", **options))


# 01 · Data


def _trained(ids, mask):
    """Those of the tokens `ids` (list of int) that `mask` (list of bool) says are trained on."""
    return [token for token, trained in zip(ids, mask, strict=True) if trained]


def trained_on(tokenizer, talk, answer, trained_text, first_answer_trained):
    """The text whose tokens count in the loss (str), and whether an earlier answer's do (bool)."""
    given(trained_text=trained_text, first_answer_trained=first_answer_trained)
    expect(isinstance(trained_text, str), "trained_text should be a text, in quotes.")
    ids, mask = chats.trained_tokens(tokenizer, talk, answer)
    truth = tokenizer.decode(_trained(ids, mask))
    last = answer[0]["content"]
    expect(last in trained_text, "the last answer is what the model should learn to say.")
    others = trained_text.replace(last, "", 1)
    expect(
        not any(turn["content"] in others for turn in talk),
        "the model only reads what stands before the last answer.",
    )
    end = tokenizer.convert_ids_to_tokens(chats.end_of_turn(tokenizer))
    expect(end in trained_text, "with this alone, how would the model learn to stop?")
    expect(
        trained_text.startswith(last),
        "who speaks next is given to the model, marks and all, so it need not learn to write that.",
    )
    expect(
        trained_text == truth,
        "nearly: what does the template put between the mark that ends a turn and the next turn?",
    )
    expect(
        not _yes_or_no("first_answer_trained", first_answer_trained),
        "the first answer stands in the prompt.",
    )
    print("Right: the last answer and all that ends its turn count in the loss, nothing before it.")


def cut_rows(tokenizer, rows, limit, train_on_nothing, cannot_stop, needed):
    """Ids of rows that `limit` robs of all trained tokens or of the end, and a limit that does not.

    tokenizer, rows, limit: as in the exercise; train_on_nothing, cannot_stop: lists of ids; needed:
    the smallest limit (int) that cuts no row.
    """
    given(train_on_nothing=train_on_nothing, cannot_stop=cannot_stop, needed=needed)
    lengths, nothing, endless = _cut(tokenizer, rows, limit)
    expect(
        not isinstance(train_on_nothing, str) and not isinstance(cannot_stop, str),
        "both should be lists of ids.",
    )
    said, loose = set(train_on_nothing), set(cannot_stop)
    expect(said | loose <= set(lengths), "the lists should hold ids, as in the column id.")
    longer = {name for name, length in lengths.items() if length > limit}
    expect(
        said == nothing or said != longer,
        "a row that is too long may still keep a part of its answer.",
    )
    expect(said <= nothing, "train_on_nothing names a row in which a trained token is left.")
    expect(
        said == nothing,
        "train_on_nothing lacks a row: where does its answer begin, and where is it cut?",
    )
    expect(not loose & nothing, "a row that trains on nothing belongs in the other list alone.")
    expect(loose <= endless, "cannot_stop names a row that keeps the mark that ends its turn.")
    expect(
        loose == endless,
        "cannot_stop lacks a row: the mark that ends a turn is the last token but one.",
    )
    longest = max(lengths.values())
    expect(number("needed", needed) >= longest, "with this limit a row would still lose something.")
    expect(needed == longest, "a smaller limit would do as well.")
    print(
        f"Right: of {len(longer)} rows over the limit {len(nothing)} train on nothing, "
        f"{len(endless)} on an answer without an end."
    )


def _cut(tokenizer, rows, limit):
    """({id: tokens of the row}, ids without a trained token, ids without an end) at `limit`."""
    end = chats.end_of_turn(tokenizer)
    lengths, nothing, endless = {}, set(), set()
    for _, row in rows.iterrows():
        ids, mask = chats.trained_tokens(tokenizer, row["prompt"], row["completion"])
        lengths[row["id"]] = len(ids)
        trained = _trained(ids[:limit], mask[:limit])
        if not trained:
            nothing.add(row["id"])
        elif end not in trained:
            endless.add(row["id"])
    return lengths, nothing, endless


def leak(train, validation, copies, rival, honest, leaky, recognised):
    """Shares (0–1): right answers on validation and on reworded copies, copies recognised.

    train, validation, copies: DataFrames with `question` and `answer`; rival: has `predict`.
    """
    given(
        **{"the result of reword": copies["question"].tolist()},
        honest=honest,
        leaky=leaky,
        recognised=recognised,
    )
    share = _recognised(train, copies)
    truth = {
        name: float((rival.predict(rows["question"]) == rows["answer"]).mean())
        for name, rows in (("train", train), ("validation", validation), ("copies", copies))
    }
    said = number("honest", honest), number("leaky", leaky)
    expect(
        all(0 <= value <= 1 for value in said), "honest and leaky should be shares between 0 and 1."
    )
    mixed = said == (truth["copies"], truth["validation"]) != (truth["validation"], truth["copies"])
    expect(
        not mixed, "honest and leaky are mixed up: which rows has the rival never seen in any form?"
    )
    learned = said[0] == truth["train"] != truth["validation"]
    expect(not learned, "honest should be measured on rows that the rival has not learned from.")
    expect(
        abs(said[0] - truth["validation"]) < 1e-6,
        "honest is not the share of right answers on validation.",
    )
    expect(
        abs(said[1] - truth["copies"]) < 1e-6,
        "leaky is not the share of right answers on the copies.",
    )
    expect(
        abs(number("recognised", recognised) - share) < 1e-6,
        "recognised: take each copy's largest similarity to any question of train, then the share "
        "of copies that reach 0.7.",
    )
    print(
        f"Right: {truth['copies']:.0%} on copies, {truth['validation']:.0%} on rows it has never "
        f"seen; {share:.0%} of the copies would have been caught."
    )


def _recognised(train, copies):
    """Share of `copies` that are 0.7 like a question of `train`. Raises NotYet if too few are."""
    texts, known = copies["question"].tolist(), train["question"].tolist()
    expect(
        all(isinstance(text, str) and text.strip() for text in texts),
        "reword should return a text.",
    )
    same = copies["question"] == train["question"].loc[copies.index]
    expect(not same.any(), "reword leaves some questions as they are: let it change every one.")
    share = float((splits.Similarity(known).largest(texts, known)[0] >= 0.7).mean())
    expect(
        share >= 0.8,
        f"reword changes too much: only {share:.0%} of the copies are still recognised, and it "
        "should be 80 % or more.",
    )
    return share


def padding(lengths, padding, guess, as_they_come, by_length):
    """A function (lengths, size) → share of padding in all tokens, and its value for two orders."""
    found = padding([1, 3], 2)
    given(
        **{"the result of padding": found},
        guess=guess,
        as_they_come=as_they_come,
        by_length=by_length,
    )
    _share("guess", guess)
    found = number("padding([1, 3], 2)", found)
    expect(
        not _near(found, 1 / 2, 1e-6),
        "divide by all tokens that are computed; padding counts among them.",
    )
    expect(not _near(found, 2 / 3, 1e-6), "that is the share of real tokens.")
    expect(
        _near(found, 1 / 3, 1e-6),
        "try it by hand: rows of 1 and 3 tokens in one batch take 6 tokens.",
    )
    found = number("padding", padding([2, 2, 4], 2))
    expect(not _near(found, 1 / 3, 1e-6), "a batch is only as long as its own longest row.")
    expect(not _near(found, 1 / 2, 1e-6), "the last batch may have fewer rows than the others.")
    expect(abs(found) < 1e-9, "rows of 2, 2 and 4 tokens, two at a time, need no padding.")
    truth = [_padding(lengths), _padding(sorted(lengths))]
    said = [number("as_they_come", as_they_come), number("by_length", by_length)]
    expect(said != truth[::-1] or truth[0] == truth[1], "the two orders are mixed up.")
    expect(
        _near(said[0], truth[0], 1e-6),
        "as_they_come should be padding() of the lengths as they are, 8 rows at a time.",
    )
    expect(
        _near(said[1], truth[1], 1e-6),
        "by_length should be padding() of the sorted lengths, 8 rows at a time.",
    )
    print(
        f"Right: {truth[0]:.0%} padding in the order of the file, {truth[1]:.1%} by length. Your "
        f"guess was {float(guess):.0%}."
    )


def _padding(lengths):
    """Share of padding among all tokens of batches of 8 rows, taken in this order."""
    batches = [lengths[start : start + 8] for start in range(0, len(lengths), 8)]
    return 1 - sum(lengths) / sum(max(batch) * len(batch) for batch in batches)


# 02 · Quantize and LoRA


@functools.cache
def _shapes(config):
    """`memory.shapes` of a config given as JSON (str); for a large model that takes seconds."""
    return memory.shapes(LlamaConfig.from_dict(json.loads(config)))


def parameters(small, large, small_qv, large_qv, large_mlp):
    """Trained parameters (int) at rank 8: of two layers of attention, twice, and of the MLP."""
    answers = {"small_qv": small_qv, "large_qv": large_qv, "large_mlp": large_mlp}
    given(**answers)
    attention, mlp = ("q_proj", "v_proj"), ("gate_proj", "up_proj", "down_proj")
    asked = ((small, attention), (large, attention), (large, mlp))
    for (name, answer), (config, targets) in zip(answers.items(), asked, strict=True):
        linear, _ = _shapes(config.to_json_string())
        said, truth = number(name, answer), memory.adapter_parameters(linear, 8, targets)
        layers = config.num_hidden_layers
        adapted = [shape for weight, shape in linear.items() if weight.split(".")[-2] in targets]
        square = 8 * layers * 4 * config.hidden_size
        expect(said != truth / layers, f"{name}: that is one block; the model has more of them.")
        expect(said != truth / 8, f"{name}: that is rank 1.")
        expect(
            targets == mlp or said != square or truth == square,
            f"{name}: v_proj is not square here. With grouped queries there are fewer heads for "
            "keys and values.",
        )
        frozen = sum(rows * columns for rows, columns in adapted)
        expect(said != frozen, f"{name}: those are the frozen weights themselves.")
        halves = [sum(8 * shape[side] for shape in adapted) for side in (0, 1)]
        expect(said not in halves, f"{name}: that is one of the two matrices of each adapter.")
        expect(
            said == truth,
            f"{name}: every adapted layer adds r · (inputs + outputs). What are they here?",
        )
    print("Right, to the parameter.")


def rank(config, setting, ranks, gigabytes, doubling, highest_nf4, highest_int8, highest_8bit_adam):
    """The highest of `ranks` that fits `gigabytes`, a tenth left free, in three ways.

    config: a transformers config; setting: dict, the rest of what `memory.training` takes.
    """
    ways = {
        "highest_nf4": {},
        "highest_int8": {"quantization": "int8"},
        "highest_8bit_adam": {"optimizer": "adamw_8bit"},
    }
    answers = {
        "highest_nf4": highest_nf4,
        "highest_int8": highest_int8,
        "highest_8bit_adam": highest_8bit_adam,
    }
    given(doubling=doubling, **answers)
    counted = _shapes(config.to_json_string())

    def needed(r, way):
        setup = memory.Setup(lora_r=r, checkpointing=True, **ways[way])
        return sum(memory.training(config, setup, counted=counted, **setting).values())

    def highest(way, room):
        return max((r for r in ranks if needed(r, way) <= room), default=0)

    more = needed(32, "highest_nf4") / needed(16, "highest_nf4") - 1
    truth = min(("10 %", "50 %", "100 %"), key=lambda text: abs(float(text[:-2]) / 100 - more))
    expect(doubling in ("10 %", "50 %", "100 %"), 'doubling should be "10 %", "50 %" or "100 %".')
    expect(
        doubling == truth,
        "doubling: which parts of the prediction grow with the rank, and how large are they beside "
        "the rest?",
    )
    for name, answer in answers.items():
        said, right = number(name, answer), highest(name, 0.9e9 * gigabytes)
        expect(said in ranks, f"{name} should be one of {ranks}.")
        full = said == highest(name, 1e9 * gigabytes) and said > right
        expect(not full, f"{name}: this leaves less than a tenth of the memory free.")
        expect(
            said <= right,
            f"{name}: this rank does not fit. Mind the units: 1 GB is 10^9 bytes here.",
        )
        expect(said == right, f"{name}: a higher rank would fit as well.")
    print(f"Right. Twice the rank takes {more:.0%} more memory here, not twice as much.")


def block_size(flat, blocks, prediction, errors, bits):
    """NF4's relative error of `flat` (1-D tensor) and its bits per weight, {block size: number}."""
    given(prediction=prediction, errors=errors, bits=bits)
    said, cost = _table("errors", errors, blocks), _table("bits", bits, blocks)
    for size in blocks:
        truth = memory.relative_error(flat, _to_nf4_and_back(flat, blocksize=size))
        expect(not _near(said[size], 100 * truth, 0.02), "errors should be shares, not percent.")
        expect(
            _near(said[size], truth, 0.02),
            f"errors[{size}]: quantize `flat` in blocks of this size, write it out, and compare.",
        )
    expect(all(cost[size] != 4 for size in blocks), "bits: the scales take room, too.")
    expect(
        not all(_near(cost[size], 4 + 4 / size, 1e-6) for size in blocks),
        "bits: a float32 scale has 4 bytes. How many bits?",
    )
    expect(
        all(_near(cost[size], 4 + 32 / size, 1e-6) for size in blocks),
        "bits: a weight takes 4, and its share of the scale.",
    )
    growth = said[blocks[-1]] / said[blocks[0]]
    right = "stays" if growth < 1.1 else "rises" if growth < 2 else "doubles"
    expect(
        prediction in ("stays", "rises", "doubles"),
        'prediction should be "stays", "rises" or "doubles".',
    )
    ending = "As you predicted."
    if prediction != right:
        ending = f'You predicted "{prediction}": what does the scale of a block depend on?'
    print(f"Right. The error {right}: {growth:.2f} times as large. {ending}")


def outlier(weight, place, sharing_nf4, sharing_int8, changed_nf4, changed_int8):
    """What an outlier at `place` does: how many share its scale, how many others change with it."""
    given(
        sharing_nf4=sharing_nf4,
        sharing_int8=sharing_int8,
        changed_nf4=changed_nf4,
        changed_int8=changed_int8,
    )
    spoiled = weight.clone()
    spoiled[place] = 100 * weight.abs().max()

    def int8(matrix):
        codes, scales, _ = F.int8_vectorwise_quant(matrix.half())
        return F.int8_vectorwise_dequant(codes, scales)

    expect(
        number("sharing_nf4", sharing_nf4) == 64,
        "sharing_nf4: how many weights share one scale in NF4? (02 tells you.)",
    )
    expect(
        number("sharing_int8", sharing_int8) != weight.shape[0],
        "sharing_int8: that is the number of rows.",
    )
    expect(
        sharing_int8 == weight.shape[1], "sharing_int8: in int8 there is one scale for each row."
    )
    for name, answer, way in (
        ("changed_nf4", changed_nf4, _to_nf4_and_back),
        ("changed_int8", changed_int8, int8),
    ):
        said, truth = number(name, answer), int((way(weight) != way(spoiled)).sum()) - 1
        expect(said != truth + 1, f"{name}: the outlier itself does not count.")
        expect(
            said != int((way(spoiled) != spoiled).sum()),
            f"{name}: compare what is read back before and after; leave out the exact weights.",
        )
        expect(
            said == truth,
            f"{name}: quantize `weight` and `spoiled`, write both out again, and count where the "
            "two differ.",
        )
    print(
        f"Right: one outlier spoils up to {64 - 1} neighbours in NF4, up to {weight.shape[1] - 1} "
        "in int8."
    )


# 03 · Train


def updates(rows, plan, rows_per_update, updates_per_epoch, repeated, warmup):
    """Rows an update sees, updates an epoch, rows that fill up the last one, warm-up (all int)."""
    given(
        rows_per_update=rows_per_update,
        updates_per_epoch=updates_per_epoch,
        repeated=repeated,
        warmup=warmup,
    )
    together = plan["processes"] * plan["batch_size"] * plan["gradient_accumulation_steps"]
    said = number("rows_per_update", rows_per_update)
    expect(
        said != plan["batch_size"],
        "rows_per_update: more rows go by before the optimizer takes a step.",
    )
    expect(said != together / plan["processes"], "rows_per_update: every process brings its share.")
    expect(
        said != together / plan["gradient_accumulation_steps"],
        "rows_per_update: the gradients of several passes are added up first.",
    )
    expect(said == together, "rows_per_update: which three numbers of the plan do you multiply?")
    each, said = math.ceil(rows / together), number("updates_per_epoch", updates_per_epoch)
    expect(
        said == int(said),
        "updates_per_epoch: an update is not split; this should be a whole number.",
    )
    expect(
        said != rows // together or said == each,
        "updates_per_epoch: the rows left over are not dropped.",
    )
    expect(said != each * plan["epochs"], "updates_per_epoch: count the updates of one epoch.")
    expect(said == each, "updates_per_epoch: divide the rows of train by the rows per update.")
    left, said = each * together - rows, number("repeated", repeated)
    expect(
        said != together - left or left == together - left,
        "repeated: those are the rows that are left over; how many are missing?",
    )
    expect(said == left, "repeated: how many rows are missing from the last update?")
    first, said = math.ceil(plan["warmup_ratio"] * plan["epochs"] * each), number("warmup", warmup)
    expect(
        said != math.ceil(plan["warmup_ratio"] * each),
        "warmup: it is a share of the whole run, not of one epoch.",
    )
    expect(said == int(said) == first, "warmup: it is a share of all updates, rounded up.")
    print(
        f"Right: {plan['epochs'] * each} updates of {together} rows, the first {first} of them "
        "warm-up."
    )


def rate(history, steps, warmup, peak, rate):
    """A function update → learning rate, compared with what the Trainer logged."""
    logged = {row["step"]: row["learning_rate"] for row in history if "learning_rate" in row}
    found = rate(0)
    given(**{"the result of rate": found})
    found = {step: number(f"rate({step})", rate(step)) for step in range(steps + 1)}
    expect(
        not all(_near(found[step], value, 1e-6) for step, value in logged.items()),
        "this is off by one: the log's step 1 is update number 0.",
    )
    expect(abs(found[0]) < 1e-12, "in the warm-up the rate rises from 0: what is rate(0)?")
    expect(
        _near(found[warmup], peak, 1e-6),
        f"when the warm-up of {warmup} updates is over, the rate is at its peak.",
    )
    rising = [step for step in logged if step <= warmup]
    expect(
        all(_near(found[step - 1], logged[step], 1e-6) for step in rising),
        "the warm-up is a straight line from 0 to the peak.",
    )
    expect(abs(found[steps]) < 1e-3 * peak, "the cosine ends at 0, after the last update.")
    expect(
        all(_near(found[step - 1], value, 1e-4) for step, value in logged.items()),
        "the rate falls along half a cosine wave, which begins at the end of the warm-up and ends "
        "with the run.",
    )
    print(f"Right at all {len(logged)} logged steps.")


def curve(history, epochs, best_step, last_epoch, gap):
    """Step of the lowest validation loss; mean training loss of the last epoch; the gap of the two.

    history: the Trainer's log; last_epoch, gap: in nats, the gap at the end of the run.
    """
    given(best_step=best_step, last_epoch=last_epoch, gap=gap)
    watched = {row["step"]: row["eval_loss"] for row in history if "eval_loss" in row}
    losses = [(row["epoch"], row["step"], row["loss"]) for row in history if "loss" in row]
    best, said = min(watched, key=watched.get), number("best_step", best_step)
    expect(
        said in watched,
        "best_step should be a step at which the validation loss was measured, not a position in "
        "a list or just any training step.",
    )
    expect(
        said == best or said != max(watched),
        "best_step: the last validation loss is not the lowest.",
    )
    expect(said == best, "best_step: there is a lower one.")
    truth = float(np.mean([loss for epoch, _, loss in losses if epoch > epochs - 1]))
    said = number("last_epoch", last_epoch)
    expect(
        not _near(said, float(np.mean([loss for _, _, loss in losses])), 1e-3),
        "last_epoch: take the mean of the last epoch alone.",
    )
    expect(
        not _near(said, losses[-1][2], 1e-3),
        "last_epoch: that is a single step, and single steps jump about. Take the mean.",
    )
    expect(
        _near(said, truth, 0.03),
        f"last_epoch: take the mean `loss` of the rows whose `epoch` is above {epochs - 1:g}.",
    )
    truth, said = list(watched.values())[-1] - truth, number("gap", gap)
    expect(not _near(said, -truth, 0.03), "gap: subtract the other way round.")
    expect(_near(said, truth, 0.05), "gap should be the last `eval_loss` less last_epoch.")
    print(
        f"Right: lowest at step {best} of {max(watched)}; at the end {truth:+.3f} between "
        "validation and training."
    )


def beaten(default, result):
    """Results of try_out: `result` must reach a clearly lower validation loss on no more rows."""
    given(result=result)
    expect(
        isinstance(result, dict) and {"rows", "loss"} <= set(result),
        "result should be what try_out returns.",
    )
    same = all(result[name] == default[name] for name in ("learning_rate", "batch_size", "lora_r"))
    expect(not same, "these are the default settings: change one.")
    expect(
        result["rows"] <= default["rows"],
        "that is a longer run, not a better one: please keep to the same rows.",
    )
    expect(
        math.isfinite(result["loss"]),
        "the loss is no longer a number: the learning rate is far too high.",
    )
    expect(
        result["loss"] < default["loss"],
        "the validation loss is not lower. What would make more of the same rows: "
        "larger steps, or more of them?",
    )
    expect(
        result["loss"] < 0.9 * default["loss"],
        "this is lower, but by less than a tenth: on so few rows that may be luck.",
    )
    print("Right: clearly lower, on the same rows.")


# 04 · Merge


def _tensor(folder, name, file="model.safetensors"):
    """The tensor `name` of a safetensors file in `folder` (Path or str), in float32."""
    with safe_open(Path(folder) / file, "pt") as weights:
        return weights.get_tensor(name).float()


def _merge_parts(layer):
    """(weights, update, merged, into, config): what a merge of a linear layer was made of.

    weights: {"full precision" or "dequantized": tensor}, of the base; update: tensor, scaled;
    merged: tensor, as 04 saved it; into: which of `weights` it was merged into; config: LoraConfig.
    """
    merged = checking.results("04_merge_push") / "merged"
    adapter = checking.results("03_train") / "adapter"
    model_id = manifests.read_manifest(adapter.parent.parent, "01_data")["parameters"]["model_id"]
    plain = _tensor(loading.find(model_id), f"{layer}.weight")
    weights = {
        "full precision": plain,
        "dequantized": _to_nf4_and_back(plain, compress_statistics=True),
    }
    config = LoraConfig.from_pretrained(adapter)
    b, a = (
        _tensor(
            adapter, f"base_model.model.{layer}.lora_{half}.weight", "adapter_model.safetensors"
        )
        for half in "BA"
    )
    update = config.lora_alpha / config.r * b @ a
    into = files.read_json(merged.parent / "merge_check.json")["merged_into"]
    return weights, update, _tensor(merged, f"{layer}.weight"), into, config


def merge(layer, scale, mine):
    """A weight (tensor) merged by hand, and the scale of its update, against the file of 04."""
    given(scale=scale, mine=mine)
    weights, update, merged, into, config = _merge_parts(layer)
    said = number("scale", scale)
    expect(
        said != config.lora_alpha,
        "scale: that is alpha alone; a higher rank would make a larger update.",
    )
    expect(
        said != config.r / config.lora_alpha or said == config.lora_alpha / config.r,
        "scale: divide the other way round.",
    )
    expect(
        _near(said, config.lora_alpha / config.r, 1e-6),
        "scale: divide two numbers of adapter_config.json.",
    )
    expect(hasattr(mine, "shape"), "mine should be a tensor.")
    expect(
        tuple(mine.shape) == tuple(merged.shape),
        f"mine should have the shape {tuple(merged.shape)}: in which order do B and A multiply?",
    )
    start = weights[into]
    other = weights["full precision" if into == "dequantized" else "dequantized"]

    def is_mine(tensor):
        return float((mine - tensor).float().norm() / update.norm()) <= 0.02

    if not is_mine(merged):
        base = is_mine(start) or is_mine(other)
        expect(not base, "mine is the base: the update is missing.")
        expect(not is_mine(start - update), "the update is subtracted, not added.")
        expect(
            not is_mine(other + update),
            "the update is right. Which weights should it be added to? merge_check.json tells you.",
        )
        expect(not is_mine(start + update / said), "the update is not scaled.")
        raise checking.NotYet(
            "the result is not what 04 saved: it should be start + scale · B A; `@` multiplies."
        )
    print(f"Right: your matrix is the one in model.safetensors, merged into the {into} weights.")


def divergence(kl, symmetric):
    """A function: two 1-D tensors of logits → KL divergence (nats), and whether it is symmetric."""
    first, second = torch.tensor([2.0, 0.5, -1.0, 0.0]), torch.tensor([0.0, 1.5, 0.5, -2.0])
    found = kl(first, second)
    given(**{"the result of kl": found}, symmetric=symmetric)
    p, q = first.log_softmax(0), second.log_softmax(0)
    truth, turned = float((p.exp() * (p - q)).sum()), float((q.exp() * (q - p)).sum())
    said = number("kl(…)", found)
    for wrong, hint in (
        (turned, "this is the other way round: weigh with the probabilities of `before`."),
        (truth / math.log(2), "that is in bits; nats come from the natural logarithm."),
        (-truth, "check the sign: the divergence is never negative."),
        (truth / len(p), "take the sum over the tokens, not a mean."),
        (float((p - q).sum()), "weigh each token's difference by the token's probability."),
        (
            float((first.softmax(0) * (first - second)).sum()),
            "logits are not yet log-probabilities.",
        ),
    ):
        expect(not _near(said, wrong, 1e-4), hint)
    expect(
        _near(said, truth, 1e-4),
        "add up p · (log p - log q) over all tokens; log p is the log_softmax of `before`.",
    )
    expect(
        abs(number("kl(…)", kl(first + 3, first))) < 1e-5,
        "adding the same number to all logits should not change the divergence.",
    )
    expect(
        not _yes_or_no("symmetric", symmetric),
        "symmetric: try kl(a, b) and kl(b, a) for two tensors.",
    )
    print("Right: 0 for equal predictions, never negative, and not symmetric.")


def scaling(model, rescale, read, factors, prediction, logits, divergences, changed):
    """A merged model with its update counted by other factors than 1, {factor: result} each.

    logits: tensors (rows, vocabulary); divergences: their mean KL divergence from factor 1, in
    nats; changed: share of rows with another likeliest token. model, rescale, read: the exercise's.
    """
    given(prediction=prediction, logits=logits, divergences=divergences, changed=changed)
    expect(
        isinstance(logits, dict) and {1, *factors} <= set(logits),
        f"logits should be a dict with the factors 1 and {factors}.",
    )
    expect(prediction in factors, f"prediction should be one of {factors}.")
    middle = factors[1]
    fresh = type(model).from_pretrained(
        checking.results("04_merge_push") / "merged", dtype=model.dtype
    )
    rescale(fresh, middle - 1)
    truth, spread = read(fresh), (logits[1] - logits[middle]).norm()
    expect(
        float((logits[middle] - truth).norm()) < 0.1 * float(spread) + 1e-3,
        f"logits[{middle}] are not those of a model with {middle} times the update. `rescale` "
        "adds to what is there: from which factor does each step start?",
    )
    right = _divergences(logits, factors, divergences)
    _changes(logits, factors, changed)
    least = min(factors, key=right.get)
    if prediction == least:
        print("Right. The least harm is done where you predicted it.")
    else:
        print(f"Right. You predicted that {prediction} does the least harm; it was {least}.")


def _divergences(logits, factors, divergences):
    """{factor: mean KL divergence from factor 1}. Raises NotYet when `divergences` differ."""
    said, right = _table("divergences", divergences, factors), {}
    before = logits[1].float().log_softmax(-1)
    for factor in factors:
        after = logits[factor].float().log_softmax(-1)
        right[factor] = float((before.exp() * (before - after)).sum(-1).mean())
        expect(
            _near(said[factor], right[factor], 1e-2) or abs(said[factor] - right[factor]) < 1e-5,
            "divergences: for each factor, take the mean over the rows of kl(logits[1][row], "
            "logits[factor][row]).",
        )
    return right


def _changes(logits, factors, changed):
    """Raises NotYet when `changed` are not the shares of rows with another likeliest token."""
    said = _table("changed", changed, factors)
    right = {
        factor: float((logits[1].argmax(-1) != logits[factor].argmax(-1)).float().mean())
        for factor in factors
    }
    good = all(abs(said[factor] - right[factor]) < 1e-6 for factor in factors)
    stays = all(abs(said[factor] + right[factor] - 1) < 1e-6 for factor in factors)
    expect(
        good or not stays,
        "changed: that is the share of rows whose likeliest token stays the same.",
    )
    expect(
        good,
        "changed: for each factor, take the share of rows whose likeliest token differs from the "
        "one at factor 1.",
    )


def quantized_again(layer, prediction, left_full, left_dequantized):
    """Share of the update that is left when a merged weight is quantized again, for both kinds."""
    given(prediction=prediction, left_full=left_full, left_dequantized=left_dequantized)
    weights, update, *_ = _merge_parts(layer)

    def again(weight):
        return _to_nf4_and_back(weight, compress_statistics=True)

    def left(start):
        remains = again(start + update) - again(start)
        return float((remains * update).sum() / (update * update).sum())

    full, rounded = left(weights["full precision"]), left(weights["dequantized"])
    said = number("left_full", left_full), number("left_dequantized", left_dequantized)
    expect(
        abs(said[0] - full) < 0.02 or abs(said[0] - rounded) > 0.02, "the two numbers are mixed up."
    )
    expect(
        abs(said[0] - 1) > 1e-3 or abs(full - 1) < 2e-3,
        "left_full: the merged weight has to be quantized again as well.",
    )
    expect(
        abs(said[0] - full) < 0.02,
        "left_full: measure again(start + update) - again(start) along the update.",
    )
    expect(
        abs(said[1] - rounded) < 0.02,
        "left_dequantized: do the same, but start from the weights that were quantized before.",
    )
    worse = "full" if full < rounded else "dequantized"
    expect(prediction in ("full", "dequantized"), 'prediction should be "full" or "dequantized".')
    ending = "as you predicted."
    if prediction != worse:
        ending = (
            f"not in the {prediction} ones: how far is each number from the next step of the scale?"
        )
    print(f"Right. Less is left in the {worse} weights, {ending}")


# 05 · Evaluate


def interval(correct, my_interval):
    """A function: 0 or 1 per row → (low, high), the mean's 95 % bootstrap interval, in shares."""
    found = my_interval(correct)
    given(**{"the result of my_interval": found})
    expect(
        isinstance(found, (tuple, list, np.ndarray)) and len(found) == 2,
        "my_interval should return two numbers, low and high.",
    )
    for rows in ((np.arange(n) < right).astype(float) for n, right in ((400, 300), (900, 850))):
        truth = scoring.bootstrap_interval(rows, 4000, 0)
        low, high = (number("an end of the interval", end) for end in my_interval(rows))
        wide, size = high - low, truth[1] - truth[0]
        expect(0 <= low <= 1 and 0 <= high <= 1, "the ends should be shares between 0 and 1.")
        expect(low <= high, "low and high are mixed up.")
        expect(wide > 0.02 * size, "every resample has the same mean: draw with replacement.")
        expect(
            abs(wide - size * 1.645 / 1.96) > 0.03 * size,
            "this holds 90 %, not 95 %: how much do you cut off at each end?",
        )
        expect(
            wide < 3 * size,
            "far too wide: these ends come from single rows or from resamples that are too small, "
            "not from means of as many rows as there are.",
        )
        expect(wide > 0.5 * size, "far too narrow: a resample has only as many rows as there are.")
        expect(
            max(abs(low - truth[0]), abs(high - truth[1])) < 0.13 * size,
            "nearly: take percentiles 2.5 and 97.5 of a thousand means or more.",
        )
    print("Right: the same interval as in 05, up to the luck of the draw.")


def mcnemar(first, second, table, p_value):
    """The paired table (dict of counts) of two systems, and McNemar's exact two-sided p."""
    names = ["both", "only_first", "only_second", "neither"]
    given(table=table, p_value=p_value)
    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    parts = (first & second, first & ~second, ~first & second, ~(first | second))
    truth = {name: int(part.sum()) for name, part in zip(names, parts, strict=True)}
    said = _table("table", table, names)
    swapped = said["only_first"] == truth["only_second"] != truth["only_first"]
    expect(not swapped, "only_first and only_second are mixed up.")
    expect(
        said["only_first"] != first.sum() or truth["only_first"] == first.sum(),
        "only_first: count the rows where the first is right and the other wrong.",
    )
    for name in names:
        expect(
            said[name] == truth[name],
            f"table: {name} is not right. Together, the four should make up all {len(first)} rows.",
        )
    won, lost = truth["only_first"], truth["only_second"]
    right = scoring.compare(first, second, 100, 0)["p_value"]
    said = number("p_value", p_value)
    ways = sum(math.comb(len(first), k) for k in range(min(won, lost) + 1))
    expect(
        not _near(said, right / 2, 1e-6) or right == 1,
        "that is only one side: the other system could have won as well.",
    )
    expect(
        not _near(said, min(1.0, 2 * ways / 2 ** len(first)), 1e-6),
        "the coin is tossed only where the two differ.",
    )
    expect(
        _near(said, right, 1e-6),
        "a fair coin is tossed where exactly one is right: how likely is it that the loser wins "
        "this few tosses, or fewer?",
    )
    rarely = ", which a coin rarely does" if right < 0.05 else ""
    print(f"Right: {won} rows for the first, {lost} for the second{rarely}.")


def shown(comparisons, verdicts):
    """A verdict (str) for each of `comparisons`, {name: (low, high)} of differences."""
    given(verdicts=verdicts)
    expect(
        isinstance(verdicts, dict) and set(comparisons) <= set(verdicts),
        "verdicts should be a dict with a word for every comparison.",
    )
    for name, (low, high) in comparisons.items():
        said = verdicts[name]
        expect(
            said in ("better", "worse", "not shown"),
            f'{name}: write "better", "worse" or "not shown".',
        )
        truth = "better" if low > 0 else "worse" if high < 0 else "not shown"
        expect(
            said == truth or truth != "not shown",
            f"{name}: which differences does the interval contain? Is 0 among them?",
        )
        expect(said == truth or said != "not shown", f"{name}: 0 lies outside the interval.")
        expect(said == truth, f"{name}: on which side of 0 does the interval lie?")
    print("Right, all of them.")


def test_rows(accuracy, here, worst):
    """Test rows for a 95 % interval of ± 3 points, at this accuracy (0–1) and at the worst."""
    given(here=here, worst=worst)
    for name, answer, p in (("here", here, accuracy), ("worst", worst, 0.5)):
        said, truth = number(name, answer), p * (1 - p) * (1.96 / 0.03) ** 2
        expect(not _near(said, truth / 4, 0.03), f"{name}: ± 3 points are 6 from end to end.")
        expect(
            not _near(said, p * (1 - p) / 0.03**2, 0.03),
            f"{name}: 95 % lie within 1.96 standard errors, not within one.",
        )
        expect(
            not _near(said, math.sqrt(truth), 0.03),
            f"{name}: the error falls with the square root of the number of rows.",
        )
        expect(not _near(said, truth / 1e4, 0.03), f"{name}: 3 points are 0.03.")
        expect(
            _near(said, truth, 0.03),
            f"{name}: 1.96 · √(p (1 - p) / rows) should be 0.03. Solve for the rows"
            + (", at the accuracy with the largest error." if name == "worst" else "."),
        )
    print("Right. Half the error takes four times the rows.")


def best_of_ten(best_of, guess, best):
    """A function (models, rows, accuracy) → mean score (0–1) of the best, and its value for ten."""
    found = best_of(10, 100, 0.8)
    given(**{"the result of best_of": found}, guess=guess, best=best)
    generator = np.random.default_rng(5)
    truth = {
        n: float((generator.binomial(100, 0.8, (4000, n)) / 100).max(axis=1).mean())
        for n in (1, 10)
    }
    _share("guess", guess)
    said = {n: number("best_of(…)", best_of(n, 100, 0.8)) for n in (1, 10)}
    expect(
        all(0 <= value <= 1 for value in said.values()),
        "best_of should return a share between 0 and 1.",
    )
    expect(abs(said[10] - 0.8) > 0.01, "that is the mean of all ten, not of the best.")
    expect(
        abs(said[1] - truth[1]) < 0.01,
        "best_of(1, 100, 0.8): a single model scores 0.8 on average. Repeat, and average.",
    )
    expect(
        said[10] < truth[10] + 0.02,
        "too high: take the best of ten in every repetition, then the mean, not the best of all.",
    )
    expect(
        abs(said[10] - truth[10]) < 0.01,
        "draw ten scores and keep the highest; repeat, and average what you kept.",
    )
    expect(abs(number("best", best) - truth[10]) < 0.01, "best should be best_of(10, 100, 0.8).")
    print(
        "Right: the best of ten equally good models looks several points better than it is. "
        f"Your guess was {100 * (guess - 0.8):+.0f} points."
    )
