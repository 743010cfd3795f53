from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForSequenceClassification

from metier.artefacts import Records
from metier.laws import toy as maker
from metier.lm import heads, load
from metier.lm.chat import Sampling
from metier.options import MetierError
from metier.store import Work
from metier.train.loop import head
from metier.train.setup import Setup, method

ROWS = [{"id": r["id"], "text": r["text"], "label": "wet" if "river" in r["text"] else "dry"} for r in maker.texts(40)]
TEXTS = [row["text"] for row in ROWS]


@pytest.fixture(scope="module", params=["full", "lora"])
def classifier(request, toy, tmp_path_factory):
    setup = Setup(steps=25, parameters=request.param, work=Work(tmp_path_factory.mktemp("head")),
                  optimizer=method("train.optimizer", "optimizer", "adamw", lr=1e-2))  # fmt: skip
    return head.train(toy, Records.from_rows(ROWS), setup)


def asked(text):
    return [{"role": "user", "content": text}]


def test_a_new_head_finds_every_label_equally_likely(toy):
    network, tokenizer = heads.attach(*load.network(toy), ["a", "b", "c"])
    ids = torch.tensor([tokenizer("the river")["input_ids"]])
    assert network(input_ids=ids).logits.tolist() == [[0.0, 0.0, 0.0]]
    assert network.config.id2label == {0: "a", 1: "b", 2: "c"}
    body = load.network(toy)[0].state_dict()
    assert all(torch.equal(t, body[n]) for n, t in network.state_dict().items() if n != "score.weight")


def test_it_answers_with_labels_and_their_probability(classifier):
    chat = load.open(classifier)
    replies = chat.reply([asked(t) for t in TEXTS])
    assert sum(r.text == row["label"] for r, row in zip(replies, ROWS, strict=True)) >= 36
    both = chat.logprobs([t for t in TEXTS for _ in "12"], [" wet", "dry"] * len(TEXTS))
    assert all(p.tokens == 1 for p in both)
    for reply, wet, dry in zip(replies, both[::2], both[1::2], strict=True):
        assert math.exp(wet.sum) + math.exp(dry.sum) == pytest.approx(1, abs=1e-5)
        assert reply.text == ("wet" if wet.sum > dry.sum else "dry")
        assert reply.confidence == pytest.approx(math.exp(max(wet.sum, dry.sum)), abs=1e-6)
        assert reply.logprob == pytest.approx(max(wet.sum, dry.sum), abs=1e-5) and reply.finish == "stop"


def test_what_it_says_is_what_plain_transformers_says(classifier):
    auto = AutoModelForSequenceClassification
    if classifier.base is not None:
        plain = AutoPeftModelForSequenceClassification.from_pretrained(classifier.path, num_labels=2)
        assert json.loads((classifier.path / "labels.json").read_text()) == ["dry", "wet"]
        plain.config.pad_token_id = 0
    else:
        plain = auto.from_pretrained(classifier.path)
        assert plain.config.id2label == {0: "dry", 1: "wet"} and plain.config.label2id == {"dry": 0, "wet": 1}
    tokenizer = AutoTokenizer.from_pretrained(classifier.path)
    batch = tokenizer(TEXTS[:9], return_tensors="pt", padding=True)
    batch.pop("token_type_ids", None)
    with torch.no_grad():
        theirs = plain.eval()(**batch).logits.log_softmax(-1)
    assert torch.allclose(load.open(classifier).log_p(TEXTS[:9]), theirs, atol=1e-5)


def test_batches_and_their_order_change_nothing(classifier):
    chat = load.open(classifier)
    one_by_one = torch.cat([chat.log_p([t]) for t in TEXTS[:8]])
    assert torch.allclose(chat.log_p(TEXTS[:8]), one_by_one, atol=1e-5)
    assert torch.allclose(chat.log_p(TEXTS[7::-1]).flip(0), one_by_one, atol=1e-5)


def test_a_folder_of_it_is_a_classifier_again(classifier, tmp_path):
    again = load.resolve(str(classifier.path), Work(tmp_path))
    assert again.head == "labels" and (again.base is None) == (classifier.base is None)
    assert torch.equal(load.open(again).log_p(TEXTS[:4]), load.open(classifier).log_p(TEXTS[:4]))
    loaded = type(again)
    again.save(tmp_path)
    assert loaded.load(tmp_path).head == "labels" and heads.labels_of(loaded.load(tmp_path)) == ["dry", "wet"]


def test_unknown_labels_and_empty_texts_are_refused(classifier):
    chat = load.open(classifier)
    with pytest.raises(MetierError, match="has no label 'damp'; it has: dry, wet"):
        chat.logprobs(["the river"], [" damp"])
    with pytest.raises(MetierError, match="a text without any word cannot be classified"):
        chat.reply([asked("")])
    assert chat.logprobs([], []) == [] and chat.reply([]) == []


def test_samples_follow_the_probabilities_and_their_seed(classifier):
    chat = load.open(classifier)
    text = min(TEXTS, key=lambda t: abs(chat.logprobs([t], ["wet"])[0].sum - math.log(0.5)))
    p = math.exp(chat.logprobs([text], ["wet"])[0].sum)
    drawn = chat.reply([asked(text)], Sampling(temperature=1.0, n=400, seed=3))
    share = sum(r.text == "wet" for r in drawn) / 400
    assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / 400) + 1e-9
    assert [r.text for r in drawn] == [
        r.text for r in chat.reply([asked(text)], Sampling(temperature=1.0, n=400, seed=3))
    ]
    assert len({r.text for r in chat.reply([asked(text)], Sampling(n=5))}) == 1


def test_a_question_is_its_text_and_a_conversation_its_template(classifier, toy):
    tokenizer = load.tokenizer_of(classifier)
    assert heads.encode(tokenizer, asked("the river"), 99) == heads.encode(tokenizer, "the river", 99)
    longer = heads.encode(tokenizer, [*asked("the river"), {"role": "assistant", "content": "rises"}], 99)
    assert tokenizer.decode(longer) == (
        "<|im_start|>user\nthe river<|im_end|>\n<|im_start|>assistant\nrises<|im_end|>\n"
    )
    assert len(heads.encode(tokenizer, "river " * 50, 7)) == 7


def test_an_encoder_is_a_classifier_too(toy, tmp_path):
    """Marks around the text, and padding that a bidirectional model would see."""
    tokenizer = AutoTokenizer.from_pretrained(toy.path)
    torch.manual_seed(0)
    network = BertForSequenceClassification(BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, num_labels=3, id2label={0: "a", 1: "b", 2: "c"}, pad_token_id=0,
        initializer_range=0.5,
    ))  # fmt: skip
    network.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    model = load.resolve(str(tmp_path / "bert"), Work(tmp_path / "w"))
    assert model.head == "labels" and heads.labels_of(model) == ["a", "b", "c"]
    chat = load.open(model)
    assert torch.allclose(chat.log_p(TEXTS[:6]), torch.cat([chat.log_p([t]) for t in TEXTS[:6]]), atol=1e-5)
    rows = [{"id": str(i), "text": t, "label": "abc"[i % 3]} for i, t in enumerate(TEXTS[:24])]
    made = head.train(model, Records.from_rows(rows), Setup(steps=2, parameters="full", work=Work(tmp_path / "t")))
    assert made.notes["loss"]["last"] and load.open(made).labels == ["a", "b", "c"]


@pytest.mark.parametrize("change, words", [
    ({"id2label": {"0": "x"}, "label2id": {"x": 0}, "num_labels": 1}, "does not give one of two labels or more"),
    ({"problem_type": "multi_label_classification"}, "does not give one of two labels or more"),
])  # fmt: skip
def test_a_head_of_another_kind_is_refused(classifier, tmp_path, change, words):
    if classifier.base is not None:
        pytest.skip("an adapter's folder has no config")
    folder = shutil.copytree(classifier.path, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(MetierError, match=words):
        load.resolve(str(folder), Work(tmp_path / "w"))


def test_an_adapter_that_names_no_labels_is_refused(classifier, tmp_path):
    if classifier.base is None:
        pytest.skip("a whole model names them in its config")
    folder = shutil.copytree(classifier.path, tmp_path / "copy")
    (folder / "labels.json").unlink()
    with pytest.raises(MetierError, match=r"does not name its labels: write them into labels\.json"):
        load.resolve(str(folder), Work(tmp_path / "w"))
