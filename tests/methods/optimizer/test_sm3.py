from __future__ import annotations

import pytest
import torch

from metier.train.optimizer import sm3


def test_two_steps_of_a_matrix_are_those_of_the_formula():
    w = torch.nn.Parameter(torch.tensor([[1.0, -2.0], [0.5, 3.0]]))
    made = sm3.optimizer([{"params": [w]}], lr=0.1, weight_decay=0.5)
    theta, row, column = w.detach().double(), [0.0, 0.0], [0.0, 0.0]
    for g in (torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([[0.5, -1.0], [2.0, 0.0]])):
        w.grad = g.clone()
        made.step()
        nu = [[min(row[i], column[j]) + float(g[i, j]) ** 2 for j in (0, 1)] for i in (0, 1)]
        row, column = [max(nu[i]) for i in (0, 1)], [max(nu[0][j], nu[1][j]) for j in (0, 1)]
        theta = theta * (1 - 0.1 * 0.5) - 0.1 * g / (torch.tensor(nu).double() + 1e-8).sqrt()
    assert torch.allclose(w.detach().double(), theta, atol=1e-6)
    assert made.state[w]["row"].tolist() == row and made.state[w]["column"].tolist() == column


def test_a_few_numbers_of_a_matrix_share_the_sums_of_its_rows_and_columns():
    values = torch.nn.Parameter(torch.zeros(3))
    indices = torch.tensor([0, 5, 6], dtype=torch.int32)  # (0, 0), (1, 2), (2, 0) of [4, 3]
    made = sm3.optimizer([{"params": [values], "indices": indices, "shape": (4, 3)}], lr=1.0)
    values.grad = torch.tensor([1.0, 2.0, 3.0])
    made.step()
    state = made.state[values]
    assert state["row"].tolist() == [1, 4, 9, 0] and state["column"].tolist() == [9, 0, 4]
    indices[0] = 9  # (3, 0): a place whose row has no sum yet
    values.grad = torch.tensor([1.0, 0.0, 0.0])
    made.step()
    assert state["row"].tolist() == [1, 4, 9, 1] and state["column"].tolist() == [9, 0, 4]
    assert values.tolist() == pytest.approx([-2, -1, -1], abs=1e-6)


def test_all_places_of_a_matrix_are_the_matrix():
    torch.manual_seed(0)
    matrix = torch.nn.Parameter(torch.zeros(4, 3))
    values = torch.nn.Parameter(torch.zeros(12))
    dense = sm3.optimizer([{"params": [matrix]}], lr=0.1)
    sparse = sm3.optimizer([{"params": [values], "indices": torch.arange(12).int(), "shape": (4, 3)}], lr=0.1)
    for _ in range(4):
        g = torch.randn(4, 3)
        matrix.grad, values.grad = g.clone(), g.reshape(-1).clone()
        dense.step(), sparse.step()
    assert torch.allclose(matrix.reshape(-1), values, atol=1e-6)
    for name in ("row", "column"):
        assert torch.equal(dense.state[matrix][name], sparse.state[values][name])


def test_a_vector_and_a_tensor_of_three_dimensions():
    vector, tensor = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2, 3, 4))
    made = sm3.optimizer([{"params": [vector, tensor]}], lr=0.5)
    for _ in range(2):
        vector.grad, tensor.grad = torch.tensor([3.0, 0.0]), torch.ones_like(tensor)
        made.step()
    assert made.state[vector]["sum"].tolist() == [18, 0]
    assert vector.tolist() == pytest.approx([-0.5 * (1 + 0.5**0.5), 0])
    assert [made.state[tensor][n].shape for n in ("row", "column")] == [(2,), (12,)]


def test_a_quadratic_goes_down_at_a_rate_for_it():
    w = torch.nn.Parameter(torch.zeros(2, 3))
    goal = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])
    made = sm3.optimizer([{"params": [w]}], lr=1.0)
    for _ in range(60):
        made.zero_grad()
        ((w - goal) ** 2).sum().backward()
        made.step()
    assert float(((w.detach() - goal) ** 2).sum()) < 0.1
