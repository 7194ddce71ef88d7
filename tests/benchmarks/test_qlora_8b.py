"""The benchmark on Llama 3 8B's architecture at a tiny size: what it makes, counts and prints."""

import json
import weakref
from itertools import pairwise

import pytest
import qlora_8b as qlora
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig


@pytest.mark.parametrize("double_quant", [False, True])
def test_made_piece_by_piece_it_equals_a_loaded_model(tmp_path, double_quant):
    config = LlamaConfig(**qlora.TINY)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path)
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_use_double_quant=double_quant,
    )
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.bfloat16, quantization_config=nf4, device_map="cpu"
    )
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).state_dict()
    alive = []

    def weight(name, shape):
        assert plain[name].shape == shape
        linear = "proj" in name
        assert not any(piece() is not None for piece in alive), (
            "an unquantized matrix outlived its turn"
        )
        piece = plain[name].clone()
        if linear:
            alive.append(weakref.ref(piece))
        return piece

    made = qlora.quantized_model(config, nf4, "cpu", weight)
    assert {n for n, _ in made.named_parameters()} == {n for n, _ in loaded.named_parameters()}
    for (name, ours), (_, theirs) in zip(
        made.state_dict().items(), loaded.state_dict().items(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    for name in ("is_quantized", "is_loaded_in_4bit", "quantization_method"):
        assert getattr(made, name) == getattr(loaded, name)
    tokens = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert torch.equal(made.eval()(tokens).logits, loaded.eval()(tokens).logits)


def test_every_line_changes_something_and_ends_with_ours():
    lines = qlora.lines(liger=True)
    assert lines[0][1] == qlora.ARTICLE and len(lines) == len(qlora.CHANGES)
    assert all(before != after for (_, before), (_, after) in pairwise(lines))
    assert set(lines[-1][1]) == set(qlora.ARTICLE) and not lines[-1][1]["checkpointing"]
    assert [name for name, _ in qlora.lines(liger=False)] == [
        name for name, _ in lines if "Liger" not in name
    ]


def test_operations_a_token_by_hand():
    base = AutoModelForCausalLM.from_config(LlamaConfig(**qlora.TINY))
    model = get_peft_model(
        base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    data = qlora.rows(20, 512, longest=64)
    block = 4 * 64 * 64 + 3 * 64 * 128
    adapters = 4 * (4 * (64 + 64) + 3 * (64 + 128))
    scored = sum(map(sum, data["completion_mask"])) / sum(map(len, data["input_ids"]))
    assert 0 < scored < 0.5
    assert qlora.flops(model, data) == pytest.approx(
        2 * (4 * block + 6 * adapters) + 4 * 512 * 64 * scored
    )


def test_table():
    row = {"tokens_per_second": 2000.0, "peak_gb": 11.26, "flops_per_token": 3e10}
    assert qlora.table([("a", row), ("b", None)], 6e14).splitlines()[2:] == [
        "| a | 2,000 | 11.3 | 10.0% |",
        "| b | out of memory | | |",
    ]


@pytest.mark.slow
def test_the_script_runs_at_a_tiny_size(monkeypatch, tmp_path, capsys):
    both = qlora.lines(liger=False)
    monkeypatch.setattr(qlora, "lines", lambda liger: [both[0], both[-1]])
    assert qlora.main(["--tiny", "--steps", "5", "--out", str(tmp_path / "out.json")]) == 0
    figures, printed = json.loads((tmp_path / "out.json").read_text()), capsys.readouterr().out
    assert len(figures["lines"]) == 2
    for name, row in figures["lines"].items():
        assert row["tokens_per_second"] > 0
        assert f"| {name} | {row['tokens_per_second']:,.0f} |" in printed


def test_without_a_gpu_the_large_model_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert qlora.main([]) == 2 and "No GPU here" in capsys.readouterr().err


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU: the 8B model itself, two lines of the table"
)
def test_the_8b_model_on_a_gpu(monkeypatch, tmp_path):
    both = qlora.lines(liger=False)
    monkeypatch.setattr(qlora, "lines", lambda liger: [both[0], both[-2]])
    assert qlora.main(["--steps", "6", "--out", str(tmp_path / "out.json")]) == 0
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["host_peak_gb"] < 32
    for row in figures["lines"].values():
        share = row["tokens_per_second"] * row["flops_per_token"] / figures["matrix_rate"]
        assert row["peak_gb"] < 40 and 0.01 < share < 1
