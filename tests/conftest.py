"""Shared by the tests: a tiny random Llama with the course's tokenizer, and the Llama 3 tokenizer, made once."""

from pathlib import Path

import pytest

from helpers import models

# As Llama 3's instruct models are asked, written out anew; test_chat compares it with Meta's own ChatFormat.
LLAMA3_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Folder (Path) of a random 2-layer Llama with the default model's tokenizer and chat template."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, set_seed

    folder = tmp_path_factory.mktemp("tiny") / "model"
    tokenizer = AutoTokenizer.from_pretrained(models.fetch_default_model())
    set_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llama3_tokenizer():
    """The real Llama 3 tokenizer, from the package llama-models (installed for the tests, never committed)."""
    import llama_models.llama3.tokenizer as meta
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    special = list(meta.Tokenizer.get_instance().special_tokens)
    vocabulary = str(Path(meta.__file__).with_name("tokenizer.model"))
    converted = TikTokenConverter(vocabulary, pattern=meta.Tokenizer.pat_str, extra_special_tokens=special).converted()
    return PreTrainedTokenizerFast(
        tokenizer_object=converted, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>", chat_template=LLAMA3_TEMPLATE,
        additional_special_tokens=special,
    )
