from __future__ import annotations

import pytest
import torch

from metier.train.optimizer import adamw


def test_two_steps_are_those_of_the_formula():
    w = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    made = adamw.optimizer([{"params": [w]}], lr=0.1, beta1=0.8, beta2=0.9, eps=1e-6, weight_decay=0.5)
    theta, m, v = w.detach().double(), torch.zeros(2).double(), torch.zeros(2).double()
    for t, g in enumerate([torch.tensor([0.3, -1.0]), torch.tensor([-0.2, 0.5])], 1):
        w.grad = g.clone()
        made.step()
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        step = (m / (1 - 0.8**t)) / ((v / (1 - 0.9**t)).sqrt() + 1e-6)
        theta = theta * (1 - 0.1 * 0.5) - 0.1 * step
    assert torch.allclose(w.detach().double(), theta, atol=1e-6)


def test_a_quadratic_goes_down_and_a_rate_of_0_moves_nothing():
    for lr in (0.05, 0.0):
        w = torch.nn.Parameter(torch.tensor([3.0, -4.0]))
        made = adamw.optimizer([{"params": [w]}], lr=lr, weight_decay=0.1)
        for _ in range(200):
            made.zero_grad()
            (w**2).sum().backward()
            made.step()
        assert (float((w**2).sum()) < 0.1) if lr else torch.equal(w.detach(), torch.tensor([3.0, -4.0]))


def test_a_group_keeps_its_own_decay_and_scale():
    a, b = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    made = adamw.optimizer([{"params": [a], "scale": 2.0}, {"params": [b], "weight_decay": 0.0}], weight_decay=0.3)
    assert [g["weight_decay"] for g in made.param_groups] == [0.3, 0.0] and made.param_groups[0]["scale"] == 2.0
    assert made.param_groups[0]["lr"] == pytest.approx(2e-4)
