"""`.pt` archives are read without unpickling: tensors and plain values come out, anything else is refused."""

from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from tests.foreign_archives import save_archive
from wam.errors import CheckpointError
from wam.torch_archive import TorchArchive


class NotATensor:
    """Unpickling this would import and build it."""


def test_tensors_of_all_kinds_come_back(tmp_path: Path):
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "plain": base,
        "view": base[1:, ::2],
        "transposed": base.t(),
        "half": base.to(torch.bfloat16),
        "whole": torch.tensor([1, -2, 3]),
        "flags": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
    }
    payload = {
        "mot": OrderedDict(tensors),
        "step": 70_000,
        "lr": 0.5,
        "none": None,
        "list": [1, (2, 3), "x"],
        "ok": True,
    }
    payload["parameter"] = torch.nn.Parameter(torch.ones(2, 3))
    save_archive(payload, tmp_path / "a.pt")
    archive = TorchArchive(tmp_path / "a.pt")
    assert archive.shapes() == {f"mot.{name}": tuple(t.shape) for name, t in tensors.items()} | {"parameter": (2, 3)}
    for name, tensor in tensors.items():
        read = archive.read(f"mot.{name}")
        assert read.dtype == tensor.dtype
        assert torch.equal(read, tensor)


def test_state_dictionaries_of_modules_come_back(tmp_path: Path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    save_archive(module.state_dict(), tmp_path / "a.pt")
    archive = TorchArchive(tmp_path / "a.pt")
    assert {name: archive.read(name).tolist() for name in archive.shapes()} == {
        name: value.tolist() for name, value in module.state_dict().items()
    }


def test_reading_leaves_the_file_alone(tmp_path: Path):
    save_archive({"a": torch.zeros(3)}, tmp_path / "a.pt")
    before = (tmp_path / "a.pt").read_bytes()
    TorchArchive(tmp_path / "a.pt").read("a").add_(1.0)
    assert (tmp_path / "a.pt").read_bytes() == before


@pytest.mark.parametrize("payload", [{"x": NotATensor()}, {"x": Path("a")}])
def test_anything_that_would_run_code_is_refused(tmp_path: Path, payload: dict):
    save_archive(payload, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="neither a tensor nor a plain value.*convert it to safetensors"):
        TorchArchive(tmp_path / "a.pt")


def test_a_cut_archive_is_refused(tmp_path: Path):
    save_archive({"a": torch.zeros(300)}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:500])
    with pytest.raises(CheckpointError, match="b.pt is not a whole torch archive"):
        TorchArchive(tmp_path / "b.pt")
