"""The machine check: every condition that it is there to find."""

from types import SimpleNamespace

import pytest
import torch

from helpers import machine as check
from helpers.records import folders

OK, WARNING, FAIL = check.OK, check.WARNING, check.FAIL


def test_this_machine_passes(capsys):
    assert check.main() == 0
    said = capsys.readouterr().out
    assert said.count("OK") >= 5 and "notebooks/params/" in said
    assert (folders.REPOSITORY / "notebooks" / "params" / check.accelerator()[1]).is_file()


@pytest.mark.parametrize(
    "system, processor, name",
    [
        ("Linux", "x86_64", "linux-x86_64"),
        ("Darwin", "arm64", "macos-arm64"),
        ("Windows", "AMD64", "windows-x86_64"),
        ("Windows", "ARM64", "windows-arm64"),
    ],
)
def test_this_machine_in_a_word(monkeypatch, system, processor, name):
    monkeypatch.setattr(check.platform, "system", lambda: system)
    monkeypatch.setattr(check.platform, "machine", lambda: processor)
    assert check.platform_name() == name


def test_a_model_room_that_cannot_be_imported_is_unknown(monkeypatch):
    monkeypatch.setattr(check, "default_model", None)
    monkeypatch.setattr(check, "MISSING", "No module named 'filelock'")
    for state, text, step in (check.check_model(), check.check_disk("model cache", None)):
        assert (state, step) == (WARNING, check.SETUP) and text.endswith("'filelock'")


def test_only_the_first_few_are_named():
    assert check.first_few(["a", "b"]) == "a; b"
    assert check.first_few(list("abcdefg")) == "a; b; c; d; 3 more"


@pytest.mark.parametrize(
    "found, state, words",
    [
        (lambda: check.check_python((3, 10, 9)), FAIL, "3.10.9"),
        (lambda: check.check_python((3, 11, 5)), OK, ""),
        (
            lambda: check.check_packages(["no-such-package>=1"], []),
            FAIL,
            "no-such-package is missing",
        ),
        (lambda: check.check_packages(["packaging>=999"], []), FAIL, "needed is >=999"),
        (
            lambda: check.check_packages([], ["packaging==0.1", "no-such-package==1"]),
            WARNING,
            "2 of 2 are not as pinned",
        ),
        (lambda: check.check_cores(1), WARNING, "1"),
        (lambda: check.check_cores(2), OK, ""),
        (lambda: check.check_memory((1.5e9, 1.0e9)), FAIL, "1.5 GB"),
        (lambda: check.check_memory((4.0e9, 3.0e9)), WARNING, "4.0 GB"),
        (lambda: check.check_memory((8.0e9, 2.0e9)), WARNING, "2.0 free"),
        (lambda: check.check_memory((8.0e9, 5.0e9)), OK, ""),
        (
            lambda: check.check_disk("run directory", folders.REPOSITORY / "none", 1e9),
            FAIL,
            "1.0 GB free",
        ),
        (
            lambda: check.check_disk("model cache", folders.REPOSITORY / "none", 1e9),
            WARNING,
            "1.0 GB free",
        ),
        (lambda: check.check_disk("run directory", folders.REPOSITORY, 9e9), OK, "9.0 GB free"),
        (
            lambda: check.check_kernel(["/elsewhere/bin/python"]),
            FAIL,
            "starts /elsewhere/bin/python",
        ),
    ],
)
def test_conditions(found, state, words):
    got, text, step = found()
    assert got == state and words in text and bool(step) == (state != OK)


def test_conditions_of_the_surroundings(monkeypatch, tmp_path):
    from jupyter_client.kernelspec import NoSuchKernel
    from jupyter_client.manager import KernelManager

    with monkeypatch.context() as patch:
        patch.setattr(check.os, "access", lambda *_: False)
        assert check.check_disk("run directory", tmp_path)[0] == FAIL
    with monkeypatch.context() as patch:
        patch.setattr(
            KernelManager,
            "format_kernel_cmd",
            lambda _: (_ for _ in ()).throw(NoSuchKernel("python3")),
        )
        assert check.check_kernel()[1] == "there is no kernel python3"
    with monkeypatch.context() as patch:
        (tmp_path / "notebooks").mkdir()
        patch.setattr(check, "REPOSITORY", tmp_path)
        assert "does not find this repository's helpers" in check.check_kernel()[1]
    with monkeypatch.context() as patch:
        patch.setattr(
            check.socket,
            "create_server",
            lambda _: (_ for _ in ()).throw(PermissionError(1, "not permitted")),
        )
        assert check.check_port()[:2] == (
            WARNING,
            "no port of 127.0.0.1 can be used: not permitted",
        )


def test_a_model_that_is_missing_or_cut(tmp_path):
    from safetensors.torch import save_file

    folder = tmp_path / "model"
    assert check.check_model(folder)[0] == WARNING
    folder.mkdir()
    assert check.check_model(folder)[0] == WARNING
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    weights = folder / "model.safetensors"
    save_file({"a": torch.zeros(10), "b": torch.zeros(3)}, weights)
    assert check.check_model(folder)[0] == OK
    whole = weights.read_bytes()
    for size in (0, 5, 50, len(whole) - 1):
        weights.write_bytes(whole[:size])
        assert check.check_model(folder)[0] == WARNING, size


@pytest.mark.parametrize(
    "size, capability, file",
    [
        (80e9, (9, 0), "llama3-8b-a100.yaml"),
        (16e9, (7, 5), "llama3-8b-t4.yaml"),
        (24e9, (8, 9), "llama3-8b-t4.yaml"),
        (8e9, (8, 6), "cpu.yaml"),
    ],
)
def test_which_parameter_file_suits_a_gpu(monkeypatch, size, capability, file):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "card")
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda _: SimpleNamespace(total_memory=size, name="card"),
    )
    assert check.accelerator()[1] == file and check.check_accelerator()[0] == OK


def test_a_gpu_that_torch_does_not_see(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(check.shutil, "which", lambda name: f"/usr/bin/{name}")
    state, text, step = check.check_accelerator()
    assert state == WARNING and "NVIDIA driver" in text and "CUDA build" in step


def test_a_notebook_stops_on_fail(capsys):
    with pytest.raises(check.NotReady, match="memory: 2 GB: use a larger machine"):
        check.report([("cores", OK, "2", ""), ("memory", FAIL, "2 GB", "use a larger machine")])
    check.report([("cores", WARNING, "1", "take fewer rows")])
    assert "take fewer rows" in capsys.readouterr().out
