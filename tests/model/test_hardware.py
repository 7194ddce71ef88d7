"""What follows from the hardware, on pretended GPUs.

The choice, its reason, and refusals that name the alternative.
"""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml

from helpers.model import hardware
from helpers.records import folders, resources

ASK = "from helpers.model import hardware; print(hardware.pick_precision()[0])"
T4, A100 = (7, 5, "Tesla T4", 15.8e9), (8, 0, "A100-SXM4-40GB", 42.3e9)


@pytest.fixture
def machine(monkeypatch):
    def pretend(gpu=None, flash=False, fast_cpu=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
        monkeypatch.setattr(hardware, "_bfloat16_is_faster", lambda: fast_cpu)
        monkeypatch.setattr(hardware, "is_flash_attn_2_available", lambda: flash)
        if gpu:
            monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: gpu[:2])
            monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: gpu[2])
            monkeypatch.setattr(
                torch.cuda, "get_device_properties", lambda *_: SimpleNamespace(total_memory=gpu[3])
            )
            monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (gpu[3], gpu[3]))

    return pretend


@pytest.mark.parametrize(
    "gpu, fast_cpu, dtype, why",
    [
        (T4, False, torch.float16, "Tesla T4 (compute capability 7.5) has no bfloat16"),
        (A100, False, torch.bfloat16, "A100-SXM4-40GB computes in bfloat16"),
        (None, True, torch.bfloat16, "CPU computes in bfloat16"),
        (None, False, torch.float32, "no fast bfloat16"),
    ],
)
def test_precision_by_itself(machine, gpu, fast_cpu, dtype, why):
    machine(gpu, fast_cpu=fast_cpu)
    picked, reason = hardware.pick_precision()
    assert picked == dtype and why in reason


@pytest.mark.slow
@pytest.mark.parametrize("most", ["AVX2", "AVX512_CORE"])
def test_bfloat16_switched_off_in_the_libraries_is_noticed(most):
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": most},
    )
    assert done.stdout.strip() == "torch.float32"


@pytest.mark.parametrize(
    "gpu, precision, said",
    [
        (
            T4,
            "bfloat16",
            "needs compute capability 8.0 or higher, and this Tesla T4 has 7.5: use 'float16' or",
        ),
        (None, "float16", "needs a GPU: use 'auto', 'float32' or 'bfloat16'"),
    ],
)
def test_impossible_precision_is_refused(machine, gpu, precision, said):
    machine(gpu)
    with pytest.raises(ValueError, match=said):
        hardware.pick_precision(precision)


def test_attention(machine):
    machine(A100, flash=True)
    assert hardware.pick_attention("auto", torch.bfloat16, 64)[0] == "flash_attention_2"
    assert hardware.pick_attention("eager", torch.bfloat16, 64)[0] == "eager"
    lacking = [
        (A100, False, torch.bfloat16, "flash-attn is not installed"),
        (A100, True, torch.float32, "not in float32"),
        (T4, True, torch.float16, "this Tesla T4 has 7.5"),
        (None, True, torch.bfloat16, "needs a GPU"),
    ]
    for gpu, flash, dtype, why in lacking:
        machine(gpu, flash)
        picked, reason = hardware.pick_attention("auto", dtype, 512)
        assert picked == "sdpa" and why in reason
        with pytest.raises(ValueError, match=f"{why}. Use 'sdpa' or 'auto'"):
            hardware.pick_attention("flash_attention_2", dtype, 64)
    machine(None)
    assert hardware.pick_attention("auto", torch.bfloat16, 64)[0] == "eager"
    assert hardware.pick_attention("auto", torch.float32, 64)[0] == "sdpa"


@pytest.mark.parametrize(
    "gpu, optim, picked, why",
    [
        (T4, "auto", "paged_adamw_8bit", "16 GB"),
        (A100, "auto", "adamw_torch_fused", "42 GB"),
        (None, "auto", "adamw_torch_fused", "CPU"),
        (None, "paged_adamw_8bit", "adamw_8bit", "no GPU memory to page"),
        (A100, "paged_adamw_8bit", "paged_adamw_8bit", "asked for"),
    ],
)
def test_optimizer(machine, gpu, optim, picked, why):
    machine(gpu)
    found, reason = hardware.pick_optimizer(optim)
    assert found == picked and why in reason


def test_storage_of_a_quantized_base(machine, monkeypatch):
    machine(A100)
    assert hardware.pick_storage("auto", 1e6)[0] == "quantized"
    assert hardware.pick_storage("dequantized", 1e12) == ("dequantized", "asked for")
    assert hardware.pick_storage("quantized", 1e6, "none") == (
        "dequantized",
        "this base was not quantized",
    )
    machine(None)
    monkeypatch.setattr(resources, "main_memory", lambda: (16e9, 1e9))
    assert hardware.pick_storage("auto", 2e9)[0] == "dequantized"
    picked, reason = hardware.pick_storage("auto", 2.1e9)
    assert picked == "quantized" and "2.1 GB" in reason
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert hardware.pick_storage("auto", 2e9)[0] == "quantized"  # each process has half


@pytest.mark.parametrize(
    "size, steps, one, expected",
    [(8, 2, 1e9, (8, 2)), (8, 2, 2.5e9, (4, 4)), (6, 1, 3.5e9, (3, 2)), (5, 1, 3.5e9, (1, 5))],
)
def test_a_smaller_batch_keeps_the_examples_of_an_update(
    machine, monkeypatch, size, steps, one, expected
):
    def needs(examples, length):
        return examples * one * length / 100

    machine(T4)
    found = hardware.pick_batch(size, steps, needs, 100)
    assert found[:2] == expected and f"sees {size * steps}" in found[2]
    machine(None)
    monkeypatch.setattr(resources, "main_memory", lambda: (15.8e9, 15.8e9))
    assert hardware.pick_batch(size, steps, needs, 100)[:2] == expected
    monkeypatch.setattr(resources, "main_memory", lambda: (64e9, 64e9))
    assert hardware.pick_batch(size, steps, needs, 100)[:2] == (size, steps)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert hardware.pick_batch(size, steps, needs, 100)[:2] == expected  # each gets a quarter


def test_too_little_memory_is_said_before_training(machine, monkeypatch, capsys):
    def needs(examples, length):
        return 5e9 + examples * length * 1e8

    machine(T4)
    wanted = (
        "Not one example of 150 tokens fits into the 15.8 GB of this Tesla T4: lower max_length"
    )
    with pytest.raises(ValueError, match=f"{wanted} to 92, or use quantization 'nf4'"):
        hardware.pick_batch(8, 1, needs, 150)
    with pytest.raises(
        ValueError, match="GB of this Tesla T4: use quantization 'nf4' or a smaller"
    ):
        hardware.pick_batch(8, 1, lambda examples, length: 15e9, 150)
    machine(None)
    monkeypatch.setattr(resources, "main_memory", lambda: (16e9, 8e9))
    assert hardware.pick_batch(8, 2, needs, 10)[:2] == (8, 2)
    said = capsys.readouterr().err
    assert "takes about 13.0 GB, and 8.0 GB of this machine are free: close other programs" in said
    assert "or lower batch_size to 2, or max_length." in said
    monkeypatch.setattr(resources, "main_memory", lambda: (16e9, 14e9))
    hardware.pick_batch(8, 2, needs, 10)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "name, gpu", [("llama3-8b-t4", T4), ("llama3-8b-a100", A100), ("llama3.1-8b-a100", A100)]
)
def test_parameter_files_suit_their_gpu_and_say_why(machine, name, gpu):
    path = folders.REPOSITORY / "notebooks" / "params" / f"{name}.yaml"
    text = path.read_text(encoding="utf-8")
    given = yaml.safe_load(text)
    assert all("  # " in line for line in text.splitlines() if not line.startswith("#"))
    machine(gpu)
    dtype, _ = hardware.pick_precision(given["precision"])
    hardware.pick_attention(given["attention"], dtype, 1024)
    assert hardware.pick_optimizer(given["optim"])[0] == hardware.pick_optimizer("auto")[0]
    assert given["batch_size"] * given["gradient_accumulation_steps"] == 16


def test_the_file_of_a_newer_gpu_is_refused_on_an_older(machine):
    machine(T4)
    path = folders.REPOSITORY / "notebooks" / "params" / "llama3-8b-a100.yaml"
    with pytest.raises(ValueError, match="use 'float16'"):
        hardware.pick_precision(yaml.safe_load(path.read_text(encoding="utf-8"))["precision"])
