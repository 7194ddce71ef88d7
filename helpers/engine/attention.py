"""Attention over a packed batch (see collator.py).

The beginning looks at itself once, and each row at the beginning and itself.

It is built around the attention that the model would use and registered beside it by name, as
transformers' documentation has it for attention functions of one's own. A batch that is not packed
takes the usual way.
"""

import functools
import sys

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

SERVED = ("eager", "sdpa")  # what it can be built around


def use_packed_attention(model):
    """Let `model` (a PreTrainedModel) attend over packed batches, too, in place. Returns None.

    Its attention is one of SERVED before, and `packed_` and that name afterwards.
    """
    usual = model.config._attn_implementation
    name = f"packed_{usual}"
    AttentionInterface.register(name, functools.partial(attend, usual))
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[usual])
    model.set_attn_implementation(name)


def attend(usual, module, query, key, value, attention_mask, **kwargs):
    """Attention, in the form in which transformers calls it; `usual`: "eager" or "sdpa".

    query, key, value: (batch, heads, tokens, width), the batch of a packed one being 1;
    attention_mask: of a packed batch as the collator makes it, else the usual one.
    Returns (output (batch, tokens, heads, width), None).
    """
    attention = functools.partial(_usual(usual, module), module)
    if not _is_packed(query, attention_mask):
        return attention(query, key, value, attention_mask, **kwargs)
    rows, length = attention_mask.shape[0], attention_mask.shape[-1]
    beginning = query.shape[2] - rows * length
    mask = functools.partial(_causal, usual, query.dtype, query.device)
    q, k, v = (_rows(states, beginning, rows) for states in (query, key, value))
    if not beginning:
        return attention(q, k, v, mask(length, 0), **kwargs)[0].flatten(0, 1)[None], None
    first_q, first_k, first_v = (states[:, :, :beginning] for states in (query, key, value))
    first = attention(first_q, first_k, first_v, mask(beginning, 0), **kwargs)[0]
    k = torch.cat([first_k.expand(rows, -1, -1, -1), k], dim=2)
    v = torch.cat([first_v.expand(rows, -1, -1, -1), v], dim=2)
    rest = attention(q, k, v, mask(length, beginning), **kwargs)[0]
    return torch.cat([first, rest.flatten(0, 1)[None]], dim=1), None


def _is_packed(query, attention_mask):
    """Whether a mask is that of packed rows: one line for several queries, as no usual mask is."""
    return attention_mask is not None and query.shape[2] > attention_mask.shape[-2] == 1


def _rows(states, beginning, rows):
    """What stands behind the beginning in (1, heads, tokens, width), as a batch of rows."""
    return states[0, :, beginning:].unflatten(1, (rows, -1)).transpose(0, 1)


def _usual(name, module):
    """The attention function that `module` would use: "eager" is each architecture's own."""
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    return AttentionInterface().get_interface(name, eager)


@functools.lru_cache(maxsize=16)
def _causal(usual, dtype, device, length, before):
    """The mask (1, 1, length, before + length) with which each token sees those before it.

    None where PyTorch's own attention is causal by itself, which is quicker.
    """
    if usual == "sdpa" and not before:
        return None
    hidden = torch.full(
        (length, before + length), torch.finfo(dtype).min, dtype=dtype, device=device
    )
    return hidden.triu(before + 1)[None, None]
