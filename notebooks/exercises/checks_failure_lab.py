"""Checks of the failure lab: each measures again with what was filled in.

A check returns what it measured; where the answer is missing or wrong it raises NotYet with a hint
(helpers.checking).
"""

import math

from transformers import DataCollatorForLanguageModeling

from helpers.checking import expect
from helpers.data import splits

LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
CHATS = [  # with and without a system turn, and over several turns
    [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": "Is it raining?"},
    ],
    [{"role": "user", "content": "Is it raining?"}],
    [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Is it raining?"},
    ],
]


def filled(value, name):
    """Raise NotYet while `value`, called `name` in the notebook, is still the three dots."""
    expect(
        value is not ..., f"{name} is still three dots: fill it in, run its cell, then this one."
    )


def targets(names, adapted):
    """Do the target modules reach every linear layer of the blocks, and nothing else?

    names: list or set of str, or "all-linear"; adapted: function of it that returns ({layer name:
    count}, parameters). Returns the layers adapted, {layer name: count}.
    """
    filled(names, "targets")
    whole = names == "all-linear"
    expect(
        whole or not isinstance(names, str),
        "PEFT takes a single text for a pattern: give a list of names.",
    )
    expect(len(names) > 0, "The list is empty.")
    layers, _ = adapted(names)
    unknown = sorted(() if whole else set(names) - set(layers))
    expect(
        not unknown,
        f"No layer of this model is called {', '.join(unknown)}. Print the model and read its "
        "names.",
    )
    others = sorted(set(layers) - LINEAR)
    expect(
        not others,
        f"Leave {', '.join(others)} frozen: what lies outside the blocks is as large as the "
        "vocabulary.",
    )
    expect(
        set(layers) == LINEAR,
        f"{len(layers)} kinds of layers get an adapter now, but a block has more linear layers "
        "than that. Did you count attention and the feed-forward part?",
    )
    return layers


def begins_once(encode, adding, plain):
    """Does `encode(tokenizer, messages)` give what the chat template means, with any tokenizer?

    adding, plain: tokenizers that do and do not put a beginning-of-sequence token by themselves.
    Returns the number of chats compared.
    """
    filled(encode, "encode")
    for messages in CHATS:
        _begins_once(encode, adding, "a tokenizer that adds a beginning", messages)
    for messages in CHATS:
        _begins_once(encode, plain, "a tokenizer that adds nothing", messages)
    return 2 * len(CHATS)


def _begins_once(encode, tokenizer, kind, messages):
    """The same for one chat and one tokenizer; kind: what the hints call it (str)."""
    ids = encode(tokenizer, messages)
    filled(ids, "What encode returns")
    expect(not isinstance(ids, str), "encode returns text, but a model reads token ids.")
    expect(
        isinstance(ids, list) and all(isinstance(token, int) for token in ids),
        f"encode should return a list of token ids, not a {type(ids).__name__}. "
        "(Did you set `return_dict`?)",
    )
    wanted = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    begin = tokenizer.bos_token_id
    expect(ids[:2] != [begin, begin], f"With {kind}, there are still two beginnings in a row.")
    expect(ids[:1] == [begin], f"With {kind}, the beginning is gone altogether.")
    missing = len(wanted) - len(ids)
    expect(
        missing <= 0 or ids != wanted[: len(ids)],
        f"The last {missing} tokens are missing: whose turn comes next?",
    )
    expect(
        ids == wanted,
        f"With {kind}, the ids differ from the template's ({len(ids)} against {len(wanted)}).",
    )


def answer_mark(mark, labels_after, tokenizer, chats):
    """Does labelling after `mark` (str) leave exactly the answers with their end of turn?

    labels_after: function of (mark, ids) that returns labels; chats: message lists that end with
    the answer. Returns the number of chats.
    """
    filled(mark, "mark")
    expect(
        isinstance(mark, str) and mark, "mark should be the text that stands before every answer."
    )
    for chat in chats:
        ids = tokenizer.apply_chat_template(chat, return_dict=False)
        labels = labels_after(mark, ids)
        trained = tokenizer.decode([token for token in labels if token != -100])
        answer = chat[-1]["content"]
        expect(
            trained, f"This mark does not occur, or nothing follows it: {tokenizer.decode(ids)!r}"
        )
        expect(
            chat[-2]["content"] not in trained,
            "Now the question is trained on, too: the mark comes too early in the chat.",
        )
        expect(
            answer in trained, f"The answer is cut: of {answer!r}, only {trained!r} is trained on."
        )
        expect(
            trained.startswith(answer),
            f"Now the model learns {trained!r}. When you ask it, does it have to write all that?",
        )
    return len(chats)


def kept_apart(training, test, known, threshold=0.7):
    """Is nothing of `test` left in `training`, not even nearly?

    training, test, known: DataFrames with `question`; known: all rows that training rows may come
    from; threshold: similarity (0–1) from which on two questions count as copies. Returns the
    largest similarity of a test question to training.
    """
    filled(training, "training")
    expect(hasattr(training, "columns"), "training should be a DataFrame, a part of `known`.")
    expect(set(training.index) <= set(known.index), "Some of these rows do not come from `known`.")
    both = set(training.index) & set(test.index)
    expect(not both, f"training still holds {len(both)} test rows.")
    similarity = splits.Similarity(known["question"].tolist())
    questions = test["question"].tolist()
    largest, _ = similarity.largest(questions, training["question"].tolist())
    close = int((largest >= threshold).sum())
    expect(
        close == 0,
        f"The test rows themselves are gone now, but {close} test questions have a near copy in "
        "training. Look at the most similar pair; 01 has a tool for that.",
    )
    rest = known.drop(test.index)["question"].tolist()
    allowed = int((similarity.largest(rest, questions)[0] < threshold).sum())
    expect(
        len(training) >= 0.9 * allowed,
        f"{allowed} rows may stay, but you keep only {len(training)}: that loses too many.",
    )
    return float(largest.max())


def asks_for_answer(to_text, tokenizer):
    """Does `to_text(messages)` end where, in training, the answer begins? Returns how many do."""
    filled(to_text, "to_text")
    for messages in CHATS:
        text = to_text(messages)
        filled(text, "What to_text returns")
        expect(
            isinstance(text, str),
            f"to_text should return a text, not a {type(text).__name__}. (Did you set `tokenize`?)",
        )
        trained = tokenizer.apply_chat_template(
            [*messages, {"role": "assistant", "content": "Yes"}], tokenize=False
        )
        before = trained[: trained.rindex("Yes")]
        expect(
            text != tokenizer.apply_chat_template(messages, tokenize=False),
            "This text leaves it open whose turn it is.",
        )
        expect(
            not before.startswith(text) or text == before,
            f"Nearly: in training, {before.removeprefix(text)!r} still came before the answer.",
        )
        expect(
            text == before, "This is not how a training chat begins; print both and compare them."
        )
    return len(CHATS)


def same_template(served, tokenizer):
    """Does `served` render chats as `tokenizer`, the one trained with, does? Returns how many."""
    filled(served, "served")
    expect(hasattr(served, "apply_chat_template"), "served should be a tokenizer.")
    for messages in CHATS:
        there, here = (
            one.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
            for one in (served, tokenizer)
        )
        roles = " + ".join(turn["role"] for turn in messages)
        expect(
            there == here,
            f"A chat of {roles} still comes out differently, from token {_same(there, here)} on.",
        )
    return len(CHATS)


def _same(first, second):
    """How many tokens (int) two lists have in common before they differ."""
    count = 0
    for one, other in zip(first, second, strict=False):  # the shorter may be the beginning
        if one != other:
            break
        count += 1
    return count


def rate(learning_rate, finetune):
    """Does training at `learning_rate` (float) learn, and stay calm?

    finetune: function of the rate that trains and returns (losses, folder of the adapter). Returns
    the losses, one per update.
    """
    filled(learning_rate, "learning_rate")
    expect(
        isinstance(learning_rate, float) and learning_rate > 0,
        "learning_rate should be a number above 0, such as 2e-2.",
    )
    losses, _ = finetune(learning_rate)
    expect(
        all(map(math.isfinite, losses)),
        "The loss is not a number any more: the rate is far too high.",
    )
    rise = max(after - min(losses[: i + 1]) for i, after in enumerate(losses))
    expect(
        rise <= 0.15 * losses[0],
        f"The loss goes up again, by {rise:.1f} from its lowest; it had begun at {losses[0]:.1f}.",
    )
    last = sum(losses[-3:]) / 3
    expect(
        last < 0.25 * losses[0],
        f"The loss falls evenly, but after {len(losses)} updates {last:.1f} of {losses[0]:.1f} are "
        "still left: at this rate, the model learns far too slowly for so few updates.",
    )
    return losses


def padding(pad_token, tokenizer):
    """Does padding with `pad_token` (str) leave every token of a chat trained on? Returns its id.

    tokenizer: the model's, which is not changed. What the collator masks is compared with what is
    padding.
    """
    filled(pad_token, "pad_token")
    expect(
        isinstance(pad_token, str) and pad_token, "pad_token should be a text, the name of a token."
    )
    trial = type(tokenizer).from_pretrained(tokenizer.name_or_path)
    trial.add_special_tokens({"pad_token": pad_token})
    rows = [{"input_ids": trial.apply_chat_template(chat, return_dict=False)} for chat in CHATS]
    labels = DataCollatorForLanguageModeling(trial, mlm=False)(rows)["labels"]
    for row, found in zip(rows, labels.tolist(), strict=True):
        ids = row["input_ids"]
        labels_of_ids = found[: len(ids)]  # the rest is padding
        masked = {
            trial.convert_ids_to_tokens(token)
            for token, label in zip(ids, labels_of_ids, strict=True)
            if label == -100
        }
        expect(
            trial.eos_token not in masked,
            f"{trial.eos_token} is still masked, so the model never learns it.",
        )
        expect(
            not masked,
            f"The end is learned now, but {', '.join(sorted(masked))} also occurs in chats, and is "
            "masked there.",
        )
    return trial.pad_token_id


def scaling(scale, make_config, divergence):
    """Is `scale(config)` the factor of the update?

    make_config: LoraConfig's constructor; divergence: function of a factor that merges and
    compares. Returns the divergence of a merge with it, in nats a token.
    """
    filled(scale, "scale")
    cases = [(16, 32, False), (8, 8, False), (64, 16, False), (16, 32, True)]
    for r, alpha, rooted in cases:
        given = scale(make_config(r=r, lora_alpha=alpha, use_rslora=rooted))
        filled(given, "What scale returns")
        right, about = alpha / (r**0.5 if rooted else r), f"for r = {r} and lora_alpha = {alpha}"
        expect(
            isinstance(given, (int, float)),
            f"scale should return a number, not a {type(given).__name__}.",
        )
        if rooted:
            expect(
                math.isclose(given, right),
                f"This is right without rank stabilisation, but {about} and use_rslora it is not.",
            )
        expect(
            not math.isclose(given * right, 1) or math.isclose(given, right),
            f"Turn it the other way up: {about} it is not {given:g}.",
        )
        expect(
            math.isclose(given, right),
            f"The factor is not {given:g} {about}. What does PEFT multiply B A by?",
        )
    found = divergence(scale(make_config(r=8, lora_alpha=32)))
    expect(
        found < 1e-3,
        f"The merged model still differs from the adapter by {found:.3f} nats a token.",
    )
    return found


def right_base(name, loss_switched_off, measured, trained_on):
    """Is `name` (str) the base, and `loss_switched_off` (float) its loss with the adapter off?

    measured: {name: loss with the adapter off}, measured anew; trained_on: name of the base that
    the adapter was made for. Returns that loss.
    """
    filled(name, "base_name")
    filled(loss_switched_off, "loss_switched_off")
    expect(name in measured, f"base_name should be one of {', '.join(measured)}.")
    expect(
        isinstance(loss_switched_off, float),
        "loss_switched_off should be a number, as answer_loss returns it.",
    )
    expect(
        name == trained_on,
        "On this base, with the adapter switched off, the loss is not that of the first update.",
    )
    right = measured[name]
    expect(
        math.isclose(loss_switched_off, right, rel_tol=0.01),
        f"The base is right, but its loss without the adapter is not {loss_switched_off:.2f}. Was "
        "the adapter off when you measured?",
    )
    return right
