from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from metier.artefacts import Records
from metier.laws import toy as maker
from metier.options import MetierError
from metier.train import batches, examples


@pytest.fixture(scope="module")
def tokenizer(toy):
    return AutoTokenizer.from_pretrained(toy.path)


def test_packing_loses_nothing_and_pads_nothing(tokenizer):
    data = maker.texts(30)
    packed = examples.packed(tokenizer, data, 64)
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    expected = [i for text in data.column("text") for i in [*tokenizer(text)["input_ids"], end]]
    assert packed.tokens.tolist() == expected
    assert set(packed.lengths[:-1]) == {64} and 2 <= packed.lengths[-1] <= 65
    again = examples.packed(tokenizer, data, 64)
    assert (again.tokens == packed.tokens).all() and again.ids == packed.ids
    assert packed.targets.sum() == len(expected) - len(packed)


def test_a_document_is_joined_in_order_with_its_title_and_headings_once():
    data = Records.from_rows([
        {"id": "1", "document": "a", "title": "Valves", "heading": "Opening", "text": "Turn left."},
        {"id": "2", "document": "b", "title": "Rivers", "heading": None, "text": "Rivers\nThey run."},
        {"id": "3", "document": "a", "title": "Valves", "heading": "Opening", "text": "Slowly."},
        {"id": "4", "document": "a", "title": "Valves", "heading": "Closing > By hand", "text": "Turn right."},
    ])  # fmt: skip
    assert list(examples.documents(data)) == [
        "Valves\n\nOpening\n\nTurn left.\n\nSlowly.\n\nClosing\n\nBy hand\n\nTurn right.",
        "Rivers\nThey run.",
    ]


def test_records_without_text_are_refused(tokenizer):
    with pytest.raises(MetierError, match="needs records with a 'text'"):
        examples.packed(tokenizer, Records.from_rows([{"id": "1", "messages": None}]), 64)
    with pytest.raises(MetierError, match="no text to train on"):
        examples.packed(tokenizer, Records.from_rows([{"id": "1", "text": ""}]), 64)


def windows(lengths, **changes):
    given = {"seed": 3, "order": "buckets", "batch": None, "step_tokens": None, "epochs": None, "steps": None,
             "total_tokens": None} | changes  # fmt: skip
    return batches.plan(lengths, **given)


LENGTHS = np.random.default_rng(0).integers(2, 100, 103)


@pytest.mark.parametrize("size", [{"batch": 8}, {"step_tokens": 600}])
def test_every_epoch_sees_every_row_once_in_even_steps_of_its_own_order(size):
    found = windows(LENGTHS, epochs=2, **size)
    for epoch in (0, 1):
        rows = np.concatenate([w.rows for w in found if w.epoch == epoch])
        assert sorted(rows) == list(range(103))
    first, second = (np.concatenate([w.rows for w in found if w.epoch == e]) for e in (0, 1))
    assert (first != second).any()
    if "batch" in size:
        assert {len(w.rows) for w in found} <= {7, 8}
    else:
        assert max(w.tokens for w in found) <= 700 and min(w.tokens for w in found) >= 450


def test_a_longer_training_begins_with_the_same_steps():
    short, long = windows(LENGTHS, steps=20, batch=8), windows(LENGTHS, steps=40, batch=8)
    assert all((a.rows == b.rows).all() for a, b in zip(short, long, strict=False)) and len(long) == 40


def test_length_of_training():
    assert len(windows(LENGTHS, epochs=0.5, batch=8)) == 7
    assert len(windows(LENGTHS, epochs=1.5, batch=8)) == 13 + 7
    found = windows(LENGTHS, total_tokens=3000, batch=8)
    assert sum(w.tokens for w in found[:-1]) < 3000 <= sum(w.tokens for w in found)


def test_given_order_stays():
    found = windows(LENGTHS, epochs=1, batch=8, order="given")
    assert np.concatenate([w.rows for w in found]).tolist() == list(range(103))
    cut = batches.micro_batches(LENGTHS, found[0].rows, 200, "given")
    assert np.concatenate(cut).tolist() == found[0].rows.tolist()


def test_micro_batches_keep_the_budget_and_every_row():
    rows = np.arange(40)
    cut = batches.micro_batches(LENGTHS, rows, 250)
    assert sorted(np.concatenate(cut)) == list(range(40))
    assert all(len(c) * LENGTHS[c].max() <= 250 for c in cut)
    longest = [int(LENGTHS[c].max()) for c in cut]
    assert longest == sorted(longest, reverse=True)
    assert [len(c) for c in batches.micro_batches(LENGTHS, rows, 1)] == [1] * 40


def test_shares_of_a_step_sum_to_one_and_randomness_belongs_to_the_record(tokenizer):
    read = examples.packed(tokenizer, maker.texts(20), 32)
    window = np.arange(len(read))[:9]

    def made(budget):
        return [
            batches.collate(read, rows, window, seed=1, epoch=2, progress=0.0, device=torch.device("cpu"))
            for rows in batches.micro_batches(read.lengths, window, budget)
        ]

    draws = []
    for budget in (32, 96, 1000):
        cut = made(budget)
        assert sum(b.share for b in cut) == pytest.approx(1)
        assert {b.tokens_in_step for b in cut} == {int(read.targets[window].sum())}
        draws.append({i: torch.rand(3, generator=b.generator(r)).tolist() for b in cut for r, i in enumerate(b.ids)})
    assert draws[0] == draws[1] == draws[2]
    assert len({tuple(d) for d in draws[0].values()}) == 9


def test_a_look_at_dev_takes_rows_from_all_over():
    looked = batches.spread(LENGTHS, 1000)
    assert looked.rows[0] == 0 and looked.rows[-1] == 102 and 800 < looked.tokens < 1200
    assert batches.spread(LENGTHS, 10**6).rows.tolist() == list(range(103))
    assert batches.spread(np.array([500]), 10).rows.tolist() == [0]
