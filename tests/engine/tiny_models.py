"""For the engine's tests: tiny configurations of several architectures, and tokenized rows."""

from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
    Phi3Config,
    Qwen3Config,
    Qwen3NextConfig,
)

VOCABULARY = 40
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    # Large enough for attention to matter: with the usual 0.02 a wrong mask would hardly show.
    "initializer_range": 0.3,
}
SCALED = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8,
}
SERVED = {  # what the engine serves
    "llama": LlamaConfig(**SMALL, tie_word_embeddings=True),
    "llama untied": LlamaConfig(**SMALL, tie_word_embeddings=False),
    "llama, a key head for each": LlamaConfig(**SMALL | {"num_key_value_heads": 4}),
    "llama, one key head": LlamaConfig(**SMALL | {"num_key_value_heads": 1}),
    "llama, scaled positions": LlamaConfig(**SMALL, rope_parameters=SCALED),
    "mistral": MistralConfig(**SMALL, sliding_window=None),
    "mistral, wide window": MistralConfig(**SMALL, sliding_window=64),
    "qwen 3": Qwen3Config(**SMALL, head_dim=16),
    "gemma 2": Gemma2Config(**SMALL, head_dim=16, sliding_window=64),
    "gemma 3": Gemma3TextConfig(**SMALL, head_dim=16, sliding_window=64),
    "phi 3": Phi3Config(**SMALL),
}
REFUSED = {  # what it leaves alone, and a word of the reason
    "mistral, narrow window": (MistralConfig(**SMALL, sliding_window=4), "only 4"),
    "gemma 3, narrow window": (
        Gemma3TextConfig(**SMALL, head_dim=16, sliding_window=4),
        "only 4",
    ),
    "linear attention": (
        Qwen3NextConfig(
            **SMALL,
            head_dim=16,
            num_experts=2,
            num_experts_per_tok=1,
            moe_intermediate_size=16,
            shared_expert_intermediate_size=16,
            linear_num_key_heads=2,
            linear_num_value_heads=2,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
        ),
        "linear_attention",
    ),
    "state space": (
        MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4),
        "",
    ),
    "balanced experts": (
        MixtralConfig(**SMALL, num_local_experts=2, output_router_logits=True, sliding_window=None),
        "mixture of experts",
    ),
}


def row(prompt, answer):
    """A tokenized row that is trained on `answer`; both are lists of token ids."""
    return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}


SEVERAL_TURNS = [
    {"input_ids": [1, 5, 6, 7, 8, 9, 10], "labels": [-100, -100, 6, -100, -100, 9, 10]},
    {"input_ids": [1, 5, 6, 11, 8, 12], "labels": [-100, -100, 6, 11, -100, 12]},
]
LONG = [*range(3, 23)]
BATCHES = {
    "a beginning in common": [
        row([1, 5, 6, 7, 8], [9, 2]),
        row([1, 5, 6, 17, 18, 19, 20], [10, 2]),
        row([1, 5, 6, 4], [2]),
    ],
    "nothing in common": [row([3, 4], [5, 2]), row([6, 7, 8], [9, 10, 2])],
    "the same prompt": [row([1, 5, 6], [7, 2]), row([1, 5, 6], [8, 9, 2])],
    "the same row twice": [row([1, 5, 6], [7, 2]), row([1, 5, 6], [7, 2])],
    "one row": [row([1, 5, 6], [7, 2])],
    "very unlike lengths": [row([1, 5], [7, 2]), row([1, 5, *LONG], [6, 2])],
    "several turns": SEVERAL_TURNS,
}
