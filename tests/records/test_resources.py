"""The machine's memory, and what control groups leave of it."""

import numpy as np
import psutil
import pytest
import torch

from helpers.records import resources


def test_the_peak_stays_when_memory_is_given_back():
    before = resources.peak_mb()
    held = np.ones(40_000_000)  # 320 MB
    now, peak = resources.now_mb(), resources.peak_mb()
    del held
    assert peak >= before and resources.peak_mb() >= peak
    assert torch.cuda.is_available() or 0.9 * 320 < now <= 1.05 * peak


@pytest.mark.skipif(torch.cuda.is_available(), reason="then it is the GPU's")
def test_without_a_gpu_training_peaks_in_main_memory():
    assert resources.training_peak_mb() == pytest.approx(resources.peak_mb(), rel=0.01)


@pytest.mark.parametrize(
    "size, said", [(0, "0.0 MB"), (1_500_000, "1.5 MB"), (999e6, "999.0 MB"), (16e9, "16.0 GB")]
)
def test_sizes_are_readable(size, said):
    assert resources.readable(size) == said


def in_group(monkeypatch, tmp_path, lines, limits):
    """Let this process be in control groups, as `lines` say, with limits {file: text}."""
    (tmp_path / "cgroup").write_text("".join(f"{line}\n" for line in lines))
    for name, text in limits.items():
        (tmp_path / "limits" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "limits" / name).write_text(f"{text}\n")
    monkeypatch.setattr(resources, "GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(resources, "LIMITS", tmp_path / "limits")


@pytest.mark.parametrize(
    "lines, limits, allowed",
    [
        (["0::/job/step"], {"job/step/memory.max": "4096"}, 4096),
        (["0::/job/step"], {"job/step/memory.max": "max", "job/memory.max": "8192"}, 8192),
        (["0::/job/step"], {"job/step/memory.max": "4096", "job/memory.max": "2048"}, 2048),
        (["0::/../outside"], {"memory.max": "1024"}, 1024),  # a container's view of its own group
        (
            ["5:cpu:/a", "4:memory:/docker/x", "0::/y"],
            {"memory/memory.limit_in_bytes": "512", "cpu/a/memory.max": "1"},
            512,
        ),
    ],
)
def test_a_control_group_limits_the_memory(tmp_path, monkeypatch, lines, limits, allowed):
    in_group(monkeypatch, tmp_path, lines, limits)
    assert resources.main_memory() == (allowed, allowed)


@pytest.mark.parametrize("limits", [{}, {"memory.max": "max"}, {"memory.max": str(2**62)}])
def test_without_a_limit_the_machine_s_memory_counts(tmp_path, monkeypatch, limits):
    in_group(monkeypatch, tmp_path, ["0::/"], limits)
    total, available = resources.main_memory()
    assert total == psutil.virtual_memory().total and 0 < available <= total
    monkeypatch.setattr(resources, "GROUPS", tmp_path / "none")  # not Linux
    assert resources.main_memory()[0] == total
