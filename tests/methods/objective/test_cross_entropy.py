from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from metier.laws import toy as maker
from metier.train import batches, examples
from metier.train.objective import cross_entropy


def test_it_is_the_mean_over_the_step_that_transformers_computes(toy):
    network = AutoModelForCausalLM.from_pretrained(toy.path)
    read = examples.conversations(AutoTokenizer.from_pretrained(toy.path), maker.questions(6), 64)
    window = np.arange(6)
    parts = [
        batches.collate(read, rows, window, seed=0, epoch=0, progress=0.0, device=torch.device("cpu"))
        for rows in batches.micro_batches(read.lengths, window, 60)
    ]
    assert len(parts) > 1
    total = sum(float(cross_entropy.loss(network, part).detach()) for part in parts)
    whole = batches.collate(read, window, window, seed=0, epoch=0, progress=0.0, device=torch.device("cpu"))
    theirs = network(input_ids=whole.input_ids, attention_mask=whole.attention_mask, labels=whole.labels).loss
    assert total == pytest.approx(float(theirs), abs=1e-5)
    assert whole.tokens_in_step == int((whole.labels[:, 1:] != -100).sum())
