"""The engine's one call: `speed_up(trainer)`, which also knows when to leave a trainer as it is."""

import torch

from helpers.engine.answers import keep_answers
from helpers.engine.attention import SERVED, use_packed_attention
from helpers.engine.collator import PackingCollator
from helpers.engine.dropout import share_dropout

CLOSE = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.05}  # see `differs`


def speed_up(trainer):
    """Let `trainer` (TRL's SFTTrainer, not yet run) train faster on a CPU; prints one sentence.

    Loss, gradients and metrics stay those of the stock trainer. Where the engine does not fit, on a
    GPU or with an architecture that it cannot serve, nothing changes, and the sentence says why.
    Returns True when the engine is used.
    """
    model = (
        trainer.model.get_base_model() if hasattr(trainer.model, "peft_config") else trainer.model
    )
    reason = reason_against(model, longest(trainer.train_dataset, trainer.eval_dataset))
    if not reason:
        usual = model.config._attn_implementation
        expected = answer_states(trainer, trainer.data_collator)
        hooks = keep_answers(model)
        use_packed_attention(model)
        reason = differs(trainer, expected)
        if reason:
            model.set_attn_implementation(usual)
            for hook in hooks:
                hook.remove()
    if reason:
        print(f"The engine stays off: {reason}. Training is the stock way.")
        return False
    trainer.data_collator = PackingCollator(trainer.data_collator)
    share_dropout(trainer.model)
    # The Trainer's estimate of operations goes through all parameters, and nobody reads it.
    trainer.floating_point_ops = lambda inputs: 0
    print(
        "The engine is on: what the rows of a batch begin with is read once, scores are computed "
        "for answers only, and dropout is drawn from a pool."
    )
    return True


def longest(*datasets):
    """Tokens (int) of the longest row of tokenized datasets; None among them is passed over."""
    return max(max(map(len, rows["input_ids"])) for rows in datasets if rows is not None)


def reason_against(model, length):
    """Why the engine cannot serve a PreTrainedModel with rows of `length` tokens; "" if it can.

    This tells what a configuration says about itself; `differs` finds out what it does not say.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) or 0
    slides = "sliding_attention" in kinds or not getattr(config, "layer_types", None)
    others = sorted(kinds - {"full_attention", "sliding_attention"})
    if model.device.type != "cpu":
        return "a GPU's own kernels are faster"
    if model.config._attn_implementation not in SERVED:
        return f"it is not made for the attention {model.config._attn_implementation!r}"
    if others:
        return f"this architecture has layers of another kind ({', '.join(others)})"
    if window and slides and window < length:
        return f"each token sees only {window} before it, and the longest row has {length}"
    if getattr(config, "output_router_logits", False):
        return "this mixture of experts balances its load over whole batches"
    if not model._can_set_attn_implementation():
        return "this architecture takes no attention function from outside"
    return ""


def answer_states(trainer, collator):
    """The last states (tokens, width) before the answer tokens of the shortest and longest row.

    collator: the one with which these two training rows become a batch, padded or packed.
    """
    rows = trainer.train_dataset
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
    batch = collator([rows[order[0]], rows[order[-1]]])
    model = trainer.model
    backbone = (model.get_base_model() if hasattr(model, "peft_config") else model).base_model
    was_training = model.training
    model.eval()
    inputs = {name: batch[name] for name in batch if name not in ("labels", "shift_labels")}
    mixed = torch.autocast("cpu", torch.bfloat16, enabled=trainer.args.bf16)
    with torch.no_grad(), mixed:
        states = backbone(**inputs, use_cache=False).last_hidden_state
    model.train(was_training)
    if "answers" in batch:
        return states[0]
    return states[:, :-1][batch["labels"][:, 1:] != -100]


def differs(trainer, expected):
    """Why packed rows give other states than `expected`, those of padded rows; "" if they do not.

    Rounding differs, so a relative difference up to CLOSE is none. What is beyond it, or an error,
    is an architecture that the engine does not know.
    """
    try:
        found = answer_states(trainer, PackingCollator(trainer.data_collator))
        error = float((found - expected).float().norm() / expected.float().norm())
    except (
        Exception
    ) as error:  # whatever an unknown architecture makes of a batch that it was not made for
        return f"this architecture does not take packed rows ({type(error).__name__})"
    if not error <= CLOSE[expected.dtype]:
        return f"this architecture reads packed rows otherwise (by {error:.0%})"
    return ""
