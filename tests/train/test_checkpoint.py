from __future__ import annotations

import torch

from metier.train import checkpoint
from metier.train.checkpoint import Checkpoint


def some(step, best=None):
    tensors = {"w": torch.full((3,), float(step)), "index": torch.arange(4, dtype=torch.int32)}
    return Checkpoint({"weights": tensors, "method": {}}, {"step": step, "best_step": best})


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_two_are_kept_and_the_best(tmp_path):
    for step in (1, 2, 3, 4):
        checkpoint.save(tmp_path, some(step, 1), keep=1)
    assert names(tmp_path) == ["step-000000001", "step-000000003", "step-000000004"]
    found, skipped = checkpoint.newest(tmp_path)
    assert found.state["step"] == 4 and skipped == []
    assert torch.equal(found.groups["weights"]["w"], torch.full((3,), 4.0)) and found.groups["method"] == {}
    assert found.groups["weights"]["index"].dtype == torch.int32


def test_torn_ones_are_skipped_by_name(tmp_path):
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, some(step), keep=1)
    weights = tmp_path / "step-000000003" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-2] + b"xx")
    (tmp_path / "step-000000002" / "state.json").unlink()
    (tmp_path / "step-000000009.tmp").mkdir()
    found, skipped = checkpoint.newest(tmp_path)
    assert found.state["step"] == 1
    assert skipped == [
        "checkpoint step-000000003 is skipped: weights.safetensors is torn",
        "checkpoint step-000000002 is skipped: state.json is missing",
    ]
    assert names(tmp_path) == ["step-000000001"]


def test_without_its_best_one_a_checkpoint_is_not_complete(tmp_path):
    checkpoint.save(tmp_path, some(1, 1))
    checkpoint.save(tmp_path, some(2, 1), keep=1)
    (tmp_path / "step-000000001" / "manifest.json").write_text("{")
    assert checkpoint.newest(tmp_path)[0] is None


def test_nothing_is_there(tmp_path):
    assert checkpoint.newest(tmp_path / "none") == (None, [])


def test_optimizer_state_round_trip_casts_nothing():
    p = [torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(2))]
    groups = [{"params": [p[0]], "scale": 0.5}, {"params": [p[1]]}]
    first = torch.optim.AdamW(groups, lr=0.1, fused=True)
    for x in p:
        x.grad = torch.ones_like(x)
    first.step()
    first.state[p[0]]["active"] = torch.tensor([5, 7], dtype=torch.int32)
    first.state[p[0]]["age"] = 3
    tensors, plain = checkpoint.flat(first)
    second = torch.optim.AdamW([{"params": [p[0]]}, {"params": [p[1]]}], lr=0.2, fused=True)
    checkpoint.restore(second, tensors, plain)
    assert second.param_groups[0]["scale"] == 0.5 and second.param_groups[1]["lr"] == 0.1
    for x in p:
        assert first.state[x].keys() == second.state[x].keys()
        for name, value in first.state[x].items():
            other = second.state[x][name]
            assert (
                torch.equal(value, other) and value.dtype == other.dtype if torch.is_tensor(value) else value == other
            )
