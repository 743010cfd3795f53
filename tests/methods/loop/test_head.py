from __future__ import annotations

import math

import pytest
import torch

from metier.artefacts import Records
from metier.laws import toy as maker
from metier.laws._training import Interrupt, Stopping
from metier.lm import load
from metier.lm import loss as lm_loss
from metier.options import MetierError
from metier.store import Work, silent
from metier.train import examples
from metier.train.loop import head, pretrain
from metier.train.run import Run
from metier.train.setup import Setup, method


def rows(n=40, seed=0):
    return [{"id": r["id"], "text": r["text"], "label": "wet" if "river" in r["text"] else "dry"}
            for r in maker.texts(n, seed)]  # fmt: skip


DATA = Records.from_rows(rows())
FAST = method("train.optimizer", "optimizer", "adamw", lr=1e-2)


def setup(folder, progress=silent, **changes):
    given = {"steps": 20, "batch": 16, "optimizer": FAST, "parameters": "full", "micro_tokens": 300}
    return Setup(**(given | changes), work=Work(folder, progress))


def probability(model, data):
    chat = load.open(model)
    found = chat.logprobs(data.column("text"), data.column("label"))
    return sum(math.exp(f.sum) for f in found) / len(found)


@pytest.mark.parametrize("parameters", ["full", "lora", method("train.parameters", "prepare", "adapter", kind="dora"),
                                        method("train.parameters", "prepare", "freeze", train=[])])  # fmt: skip
def test_it_learns_the_labels(toy, tmp_path, parameters):
    made = head.train(toy, DATA, setup(tmp_path, parameters=parameters, dev=DATA))
    assert made.head == "labels" and made.notes["labels"] == ["dry", "wet"]
    assert made.notes["loss"]["first"] == pytest.approx(math.log(2), abs=1e-6)
    assert made.notes["dev"]["best"] < 0.9 * made.notes["dev"]["first"] and probability(made, DATA) > 0.55


def test_a_probe_moves_the_head_alone(toy, tmp_path):
    probe = method("train.parameters", "prepare", "freeze", train=[])
    made = head.train(toy, DATA, setup(tmp_path, parameters=probe))
    assert made.notes["parameters_trained"] == 2 * 32
    body, trained = (load.network(m)[0].state_dict() for m in (toy, made))
    assert all(torch.equal(t, body[n]) for n, t in trained.items() if n != "score.weight")
    with pytest.raises(MetierError, match="nothing is left to train"):
        kept = method("train.parameters", "prepare", "freeze", train=[], keep=["score.*"])
        head.train(toy, DATA, setup(tmp_path / "b", parameters=kept))


def test_a_step_is_the_same_however_it_is_cut_and_is_what_transformers_computes(toy, tmp_path):
    from functools import partial

    from metier.lm import heads

    # Adam makes whole steps of gradients that are rounding errors, unless eps is larger than they are.
    steady = method("train.optimizer", "optimizer", "adamw", lr=1e-2, eps=1e-2)

    def run(micro, objective="cross_entropy"):
        return Run(toy, DATA, setup(tmp_path / f"{micro}", micro_tokens=micro, steps=3, objective=objective,
                                       optimizer=steady),
                   partial(examples.labelled, labels=["dry", "wet"]), "test", head.SLOTS,
                   lambda m: heads.attach(*load.network(m), ["dry", "wet"]))  # fmt: skip

    whole, cut = run(8000), run(60)
    for _ in range(3):
        assert whole.step()["loss"] == pytest.approx(cut.step()["loss"], abs=1e-6)
    assert all(torch.allclose(w, cut.weights[n], atol=1e-6) for n, w in whole.weights.items())
    batch = whole.feed.batch(whole.plan[0].rows, whole.plan[0])
    picked = lm_loss.supervised(whole.network, batch.input_ids, batch.labels)
    labels = torch.tensor([0 if DATA.column("label")[r] == "dry" else 1 for r in whole.plan[0].rows])
    assert picked.labels.tolist() == labels.tolist() and picked.rows.tolist() == list(range(len(labels)))
    tokenizer = load.tokenizer_of(toy)
    texts = [DATA.column("text")[r] for r in whole.plan[0].rows]
    given = tokenizer(texts, return_tensors="pt", padding=True)
    theirs = whole.network(input_ids=given["input_ids"], attention_mask=given["attention_mask"], labels=labels).loss
    assert float(picked.loss().detach()) / len(labels) == pytest.approx(float(theirs.detach()), abs=1e-5)
    assert batch.tokens_in_step == batch.rows_in_step == len(labels)


def test_an_objective_with_a_memory_and_a_term_serve_heads(toy, tmp_path):
    import objective_with_memory as objective

    made = head.train(toy, DATA, setup(tmp_path, objective=objective.loss, terms=["l2_start"]))
    assert made.notes["loss"]["last"] < made.notes["loss"]["first"]


@pytest.mark.parametrize("parameters", ["full", method("train.parameters", "prepare", "lora", dropout=0.1)])
def test_killed_it_ends_with_the_same_bytes(toy, tmp_path, parameters):
    def train(name, progress=silent):
        return head.train(toy, DATA, setup(tmp_path / name, progress, steps=6, parameters=parameters, dev=DATA,
                                           checkpoint_every=1e-6))  # fmt: skip

    whole = train("whole")
    with pytest.raises(Interrupt):
        train("killed", Stopping(4))
    assert train("killed").digest == whole.digest


def test_conversations_and_prompts_are_read_too(toy, tmp_path):
    made = [
        head.train(toy, Records.from_rows([{"id": r["id"], "label": r["label"], **form(r["text"])} for r in rows(12)]),
                   setup(tmp_path / str(i), steps=2))
        for i, form in enumerate((
            lambda text: {"text": text},
            lambda text: {"prompt": text},
            lambda text: {"messages": [{"role": "user", "content": text}]},
            lambda text: {"prompt": [{"role": "user", "content": text}]},
        ))
    ]  # fmt: skip
    assert len({m.digest for m in made}) == 1


def test_upon_an_adapter_it_sits_on_what_the_adapter_made(toy, tmp_path):
    read = pretrain.train(toy, maker.texts(20), Setup(steps=5, optimizer=FAST, work=Work(tmp_path / "read")))
    made = head.train(read, DATA, setup(tmp_path / "head", parameters="lora"))
    assert made.base == read and made.base.base == toy
    again = load.resolve(str(made.path), Work(tmp_path / "w"))
    assert again.base.base.digest == toy.digest
    assert probability(again, DATA) == pytest.approx(probability(made, DATA), abs=1e-6)
    whole = head.train(read, DATA, setup(tmp_path / "full"))
    assert whole.base is None and probability(whole, DATA) > 0.55


@pytest.mark.parametrize("parameters", ["full", "lora"])
def test_it_goes_on_with_the_labels_it_has(toy, tmp_path, parameters):
    made = head.train(toy, DATA, setup(tmp_path / "a", parameters=parameters))
    one = Records.from_rows([r for r in rows() if r["label"] == "wet"])
    more = head.train(made, one, setup(tmp_path / "b", parameters=parameters))
    assert more.notes["labels"] == ["dry", "wet"] and more.base == made.base
    assert more.notes["loss"]["first"] == pytest.approx(made.notes["loss"]["last"], rel=0.9)
    with pytest.raises(MetierError, match="record 'x' has the label 'damp', none of dry, wet"):
        head.train(made, Records.from_rows([{"id": "x", "text": "a river", "label": "damp"}]), setup(tmp_path / "c"))


@pytest.mark.parametrize("given, words", [
    ([{"id": "1", "text": "a"}], "records have no column 'label'; they have: id, text"),
    ([{"id": "1", "text": "a", "label": "x"}], "needs records with two labels or more; there is only 'x'"),
    ([{"id": "1", "text": "a", "label": None}], "needs records with two labels or more; no record has one"),
    ([{"id": "1", "text": "", "label": "x"}, {"id": "2", "text": None, "label": "y"}],
     "no record to train on (2 × no text)"),
])  # fmt: skip
def test_data_that_cannot_teach_labels_is_refused(toy, tmp_path, given, words):
    with pytest.raises(MetierError) as error:
        head.train(toy, Records.from_rows(given), setup(tmp_path))
    assert words in str(error.value)


def test_records_without_a_label_are_dropped_and_dev_may_hold_no_new_one(toy, tmp_path):
    some = Records.from_rows(
        [*rows(8), {"id": "n", "text": "a", "label": None}, {"id": "e", "text": "", "label": "wet"}]
    )
    head.train(toy, some, setup(tmp_path, steps=1))
    logged = next(row for row in Work(tmp_path).rows() if "kept" in row)
    assert logged["kept"] == 8 and logged["dropped"] == {"no label": 1, "no text": 1}
    with pytest.raises(MetierError, match="record 'd' has the label 'new', none of dry, wet"):
        head.train(toy, DATA, setup(tmp_path / "b", dev=Records.from_rows([{"id": "d", "text": "a", "label": "new"}])))


def test_long_texts_are_cut_behind(toy, tmp_path):
    read = examples.labelled(load.tokenizer_of(toy), DATA, 8, labels=["dry", "wet"])
    assert read.lengths.max() == 8 and (read.targets == 1).all()
