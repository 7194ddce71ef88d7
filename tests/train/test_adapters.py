"""Adapters: float32 while they learn, saved alone, the same bytes each time, no pickle."""

import copy

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from helpers.model import loading
from helpers.records import files
from helpers.train import adapters

LORA = LoraConfig(r=2, target_modules=["q_proj", "down_proj", "v_proj"], task_type="CAUSAL_LM")


def trainer(tiny, folder):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_special_tokens({"pad_token": loading.PAD_TOKEN})
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.bfloat16)
    loading.add_pad_row(model, tokenizer)
    torch.manual_seed(0)
    rows = [{"input_ids": [1, 5, 6, 7, 2], "labels": [-100, -100, -100, 7, 2]}] * 8
    return SFTTrainer(
        model=get_peft_model(model, copy.deepcopy(LORA)),
        args=SFTConfig(
            output_dir=str(folder),
            use_cpu=True,
            bf16=True,
            max_steps=2,
            save_steps=1,
            gradient_checkpointing=False,
            report_to="none",
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )


def test_what_is_saved_is_lora_s_and_comes_out_the_same(tiny, tmp_path):
    hashes = []
    for name in ("one", "two"):
        made = trainer(tiny, tmp_path / name)
        for parameter in made.model.parameters():
            if parameter.requires_grad:  # as TRL leaves adapters on a quantized base
                parameter.data = parameter.data.bfloat16()
        adapters.prepare(made.model)
        assert {p.dtype for p in made.model.parameters() if p.requires_grad} == {torch.float32}
        made.train()
        checkpoint = tmp_path / name / "checkpoint-2" / "adapter_model.safetensors"
        assert all("lora_" in tensor for tensor in load_file(checkpoint))
        adapters.save(made, tmp_path / name / "adapter", "the/base")
        saved = files.contents(tmp_path / name / "adapter")
        assert not [file for file in saved if file.endswith((".bin", ".md", ".pt"))]
        hashes.append({file: files.sha256(path) for file, path in saved.items()})
    assert hashes[0] == hashes[1]
    config = files.read_json(tmp_path / "one" / "adapter" / "adapter_config.json")
    assert config["base_model_name_or_path"] == "the/base"
    assert config["target_modules"] == sorted(LORA.target_modules)


def test_a_saved_adapter_loads_again(tiny, tmp_path):
    made = trainer(tiny, tmp_path)
    adapters.prepare(made.model)
    made.train()
    adapters.save(made, tmp_path / "adapter", "the/base")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.bfloat16)
    loading.add_pad_row(base, tokenizer)
    again = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    ids = torch.tensor([[1, 5, 6]])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = [model(ids).logits.float() for model in (again, made.model.eval())]
    torch.testing.assert_close(*logits)
