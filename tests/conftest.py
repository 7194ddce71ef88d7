"""Shared by the tests: tiny random Llamas, made once.

One has the course's tokenizer, the other that of Llama 3.
"""

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    set_seed,
)
from transformers.convert_slow_tokenizer import TikTokenConverter

from helpers.data import chats
from helpers.model import default_model

# config.json and generation_config.json of Llama 3.1 8B Instruct, in the form they have on the Hub,
# at a tiny width.
LLAMA31_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "mlp_bias": False,
    "hidden_act": "silu",
    "pretraining_tp": 1,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "vocab_size": 128256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-05,
    "tie_word_embeddings": False,
    "max_position_embeddings": 131072,
    "rope_theta": 500000.0,
    "transformers_version": "4.42.3",
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
}
LLAMA31_GENERATION = {
    "bos_token_id": 128000,
    "do_sample": True,
    "eos_token_id": [128001, 128008, 128009],
    "temperature": 0.6,
    "top_p": 0.9,
}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Folder (Path) of a random 2-layer Llama with the default model's tokenizer and template."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    tokenizer = AutoTokenizer.from_pretrained(default_model.fetch())
    set_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llama3_tokenizer():
    """The real Llama 3 tokenizer, from the package llama-models (installed for the tests only)."""
    # Here only, so that tests without Llama 3 run without the package.
    import llama_models.llama3.tokenizer as meta

    special = list(meta.Tokenizer.get_instance().special_tokens)
    vocabulary = str(Path(meta.__file__).with_name("tokenizer.model"))
    converted = TikTokenConverter(
        vocabulary, pattern=meta.Tokenizer.pat_str, extra_special_tokens=special
    ).converted()
    return PreTrainedTokenizerFast(
        tokenizer_object=converted,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        chat_template=chats.LLAMA3_TEMPLATE,
        additional_special_tokens=special,
    )


@pytest.fixture(scope="session")
def llama3_tiny(tmp_path_factory, llama3_tokenizer):
    """Folder (Path) of a random model with Llama 3.1's vocabulary, config keys and tokenizer.

    It is laid out as on the Hub.
    """
    folder = tmp_path_factory.mktemp("llama3") / "model"
    llama3_tokenizer.save_pretrained(folder)
    for name, content in (("config", LLAMA31_CONFIG), ("generation_config", LLAMA31_GENERATION)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    set_seed(0)
    model = LlamaForCausalLM(AutoConfig.from_pretrained(folder))
    save_file(
        model.bfloat16().state_dict(), folder / "model.safetensors", metadata={"format": "pt"}
    )
    return folder
