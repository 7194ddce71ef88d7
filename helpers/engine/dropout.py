"""Dropout for adapters that draws few random numbers.

Dropout leaves out a part of what enters each adapter, another part in every pass. That takes a
random decision for every input of every adapter, millions in a training step, and on a CPU PyTorch
draws one number after the other. Here all adapters share one pool of decisions, drawn once for each
pass and twice as long as the widest input; each takes a stretch of it, from a random place.
Stretches overlap, but then the same decision falls on different inputs.
"""

import torch


class SharedDropout(torch.nn.Module):
    """Dropout of probability `p` whose decisions come from a pool; off in evaluation."""

    def __init__(self, p):
        super().__init__()
        self.p, self.pool = p, torch.empty(0)

    def draw(self, size, dtype, device):
        """Draw a pool of `size` numbers: 0 with probability p, else 1 / (1 - p)."""
        pool = torch.empty(size, dtype=dtype, device=device)
        self.pool = pool.bernoulli_(1 - self.p).div_(1 - self.p)

    def forward(self, inputs):
        if not self.training:
            return inputs
        if len(self.pool) < inputs.numel():
            self.draw(2 * inputs.numel(), inputs.dtype, inputs.device)
        first = torch.randint(len(self.pool) - inputs.numel() + 1, ())
        return inputs * self.pool[first : first + inputs.numel()].view(inputs.shape)


def share_dropout(model):
    """Let all adapters of a PEFT model take their dropout from one pool, in place. Returns None.

    Adapters without dropout stay as they are. The pool is drawn anew when the embeddings are read,
    the first thing that happens in every forward pass.
    """
    layers = [layer for layer in model.modules() if hasattr(layer, "lora_dropout")]
    dropouts, widest = {}, 0
    for layer in layers:
        for name, dropout in layer.lora_dropout.items():
            if isinstance(dropout, torch.nn.Dropout):
                shared = dropouts.setdefault(dropout.p, SharedDropout(dropout.p))
                layer.lora_dropout[name] = shared.train(dropout.training)
                widest = max(widest, layer.in_features)

    def draw(embeddings, ids, vectors):
        if embeddings.training:
            for dropout in dropouts.values():
                dropout.draw(2 * ids[0].numel() * widest, vectors.dtype, vectors.device)

    if dropouts:
        model.get_input_embeddings().register_forward_hook(draw)
