from __future__ import annotations

import pytest
import torch

from metier.train.optimizer import adamw, sparse_adamw

OPTIONS = {"lr": 0.1, "beta1": 0.8, "beta2": 0.9, "eps": 1e-6, "weight_decay": 0.5}


def weight():
    return torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))


def test_where_all_ages_are_equal_it_is_adamw():
    ours, theirs = weight(), weight()
    pair = [(ours, sparse_adamw.optimizer([{"params": [ours]}], **OPTIONS)),
            (theirs, adamw.optimizer([{"params": [theirs]}], **OPTIONS))]  # fmt: skip
    for step in range(5):
        for w, made in pair:
            w.grad = torch.tensor([0.3, -1.0, 0.1 * step])
            made.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_a_number_that_has_just_come_is_corrected_for_its_own_age():
    w = weight()
    made = sparse_adamw.optimizer([{"params": [w]}], lr=0.1, eps=1e-12)
    for _ in range(7):
        w.grad = torch.tensor([1.0, 1.0, 1.0])
        made.step()
    state = made.state[w]
    for name in ("exp_avg", "exp_avg_sq", "age"):
        state[name][1] = 0.0
    before = w.detach().clone()
    w.grad = torch.tensor([1.0, 5.0, 1.0])
    made.step()
    assert state["age"].tolist() == [8, 1, 8] and state["age"].dtype == torch.float32
    assert (before - w.detach()).tolist() == pytest.approx([0.1, 0.1, 0.1], rel=1e-4)  # a first step goes lr


def test_ages_grow_with_weights_in_half_precision():
    w = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    made = sparse_adamw.optimizer([{"params": [w]}])
    for _ in range(300):  # in bfloat16 256 + 1 is 256
        w.grad = torch.ones_like(w)
        made.step()
    assert made.state[w]["age"].tolist() == [300, 300]
