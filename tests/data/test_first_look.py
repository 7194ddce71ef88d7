"""Where an untrained model is asked a few questions, and where it is not."""

import torch
from transformers import LlamaConfig

from helpers.data import first_look
from helpers.records import resources

SIZES = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": True,
    "dtype": "bfloat16",
}


def folder_of(tmp_path, layers):
    """A folder (str) with the config.json of a Llama: 16 layers are 1.2 billion parameters."""
    LlamaConfig(num_hidden_layers=layers, **SIZES).save_pretrained(tmp_path)
    return str(tmp_path)


class Gpu:
    total_memory = 8e9


def test_a_base_is_asked_where_it_fits(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "main_memory", lambda: (10e9, 9e9))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Gpu)
    small = folder_of(tmp_path, 16)
    assert first_look.place(small) == {"": "cpu"}
    large = folder_of(tmp_path / "large", 64)  # 4.2 billion
    assert first_look.place(large) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert first_look.place(small) == {"": 0}
    assert first_look.place(large) is None  # 8.4 GB
    monkeypatch.setattr(Gpu, "total_memory", 16e9)
    assert first_look.place(large) == {"": 0}
    monkeypatch.setattr(Gpu, "total_memory", 1e9)
    assert first_look.place(small) == {"": "cpu"}
    monkeypatch.setattr(resources, "main_memory", lambda: (1e9, 1e9))
    assert first_look.place(small) is None
