from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from metier import preflight, publish, recipe
from metier.artefacts import Records, Report
from metier.compose.weights import Weights
from metier.laws import toy as maker
from metier.laws._training import Interrupt, Stopping
from metier.lm import bottleneck, load
from metier.lm.chat import Sampling
from metier.options import MetierError
from metier.store import Work, silent
from metier.train.loop import head, sft
from metier.train.parameters import bottleneck as method_file
from metier.train.parameters import full, lora, parallel_adapter, series_adapter
from metier.train.setup import Network, Setup, method

IDS = torch.arange(40).reshape(2, 20)
WIDTH, INNER, BLOCKS, KEYS = 32, 64, 2, 16  # of the toy
FAST = method("train.optimizer", "optimizer", "adamw", lr=3e-2)


def network(model):
    return Network(*load.network(model), model)


def bound(name="bottleneck", **values):
    return method("train.parameters", "prepare", name, **values)


def prepared(toy, name="bottleneck", **values):
    torch.manual_seed(0)
    return bound(name, **values)(network(toy))


@torch.no_grad()
def logits(module):
    return module.eval()(input_ids=IDS).logits


def moved(trainable, by=0.05):
    """As after some training."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in trainable.groups[0]["params"]:
            p.add_(by * torch.randn(p.shape, generator=draw))
    return trainable


@pytest.mark.parametrize("place", ["input", "output", "parallel"])
def test_it_begins_at_the_model_bit_for_bit_and_from_noise_elsewhere(toy, place):
    base = logits(load.network(toy)[0])
    assert torch.equal(logits(prepared(toy, place=place, size=4).network.module), base)
    assert not torch.allclose(logits(prepared(toy, place=place, size=4, start="noise").network.module), base, atol=1e-5)


@pytest.mark.parametrize("name, values, expected", [
    ("bottleneck", {"targets": ["q_proj"]}, WIDTH + WIDTH),
    ("bottleneck", {"targets": ["k_proj"], "place": "input"}, WIDTH + WIDTH),
    ("bottleneck", {"targets": ["k_proj"], "place": "output"}, KEYS + KEYS),
    ("bottleneck", {"targets": ["k_proj"]}, WIDTH + KEYS),
    ("bottleneck", {}, 2 * (WIDTH + WIDTH) + 2 * (WIDTH + KEYS) + 3 * (WIDTH + INNER)),
    ("parallel_adapter", {}, 3 * (WIDTH + INNER)),
    ("parallel_adapter", {"where": "attention"}, 2 * WIDTH + 2 * (WIDTH + KEYS)),
    ("parallel_adapter", {"where": "both"}, 2 * WIDTH + 2 * (WIDTH + KEYS) + 3 * (WIDTH + INNER)),
    ("series_adapter", {}, 2 * (WIDTH + WIDTH) + 2 * WIDTH),
    ("series_adapter", {"variant": "pfeiffer"}, 2 * WIDTH),
])  # fmt: skip
def test_trained_are_size_times_in_and_out_of_each(toy, name, values, expected):
    for size in (1, 5):
        made = prepared(toy, name, size=size, **values)
        assert sum(p.numel() for p in made.groups[0]["params"]) == BLOCKS * size * expected


def by_hand(place, matrix, x, act):
    """y of a matrix with its bottleneck, from the formula."""
    low = matrix.bottleneck

    def f(u):
        return low.shape.scale * act(u @ low.down.t()) @ low.up.t()

    w = matrix.weight.t()
    return {"input": lambda: (x + f(x)) @ w, "output": lambda: x @ w + f(x @ w), "parallel": lambda: x @ w + f(x)}[
        place
    ]()


@pytest.mark.parametrize("act, maths", [("tanh", torch.tanh), ("relu", torch.relu), ("identity", lambda u: u)])
@pytest.mark.parametrize("place", ["input", "output", "parallel"])
def test_each_place_is_its_formula(toy, place, act, maths):
    made = moved(prepared(toy, place=place, act=act, targets=["up_proj"], size=3, scale=0.7), by=0.5)
    matrix = made.network.module.model.layers[1].mlp.up_proj
    x = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.allclose(matrix(x), by_hand(place, matrix, x, maths), atol=1e-5)
    assert not hasattr(made.network.module.model.layers[1].mlp.gate_proj, "bottleneck")


def test_series_adapters_stand_before_and_after_the_feed_forward_part(toy):
    held = next(bottleneck.of(prepared(toy, "series_adapter", size=2).network.module)).shape
    assert held.places == {"gate_proj": "input", "up_proj": "input", "down_proj": "output"}
    held = next(bottleneck.of(prepared(toy, "series_adapter", size=2, variant="pfeiffer").network.module)).shape
    assert held.places == {"down_proj": "output"}


def test_in_parallel_without_an_act_it_is_lora(toy):
    rank, alpha = 4, 6.0
    ours = moved(prepared(toy, size=rank, act="identity", scale=alpha / rank)).network.module
    theirs = lora.prepare(network(toy), rank=rank, alpha=alpha).network.module
    with torch.no_grad():
        for name, matrix in theirs.named_modules():
            if hasattr(matrix, "lora_A"):
                low = ours.get_submodule(name.removeprefix("base_model.model.")).bottleneck
                matrix.lora_A["default"].weight.copy_(low.down)
                matrix.lora_B["default"].weight.copy_(low.up)
    assert not torch.allclose(logits(ours), logits(load.network(toy)[0]), atol=1e-3)
    assert torch.allclose(logits(ours), logits(theirs), atol=1e-5)


@pytest.mark.parametrize("name", ["bottleneck", "series_adapter", "parallel_adapter"])
def test_it_is_saved_and_opens_with_the_same_logits_and_the_base_is_below(toy, tmp_path, name):
    made = moved(prepared(toy, name, size=4))
    after = logits(made.network.module)
    model = made.finish(tmp_path / "a")
    files = {p.name for p in model.path.iterdir()}
    assert {"bottleneck.json", "bottleneck.safetensors"} <= files
    assert {p.suffix for p in model.path.iterdir()} <= {".json", ".safetensors", ".jinja"}
    for merged in (False, True):
        assert torch.equal(logits(load.network(model, merged=merged)[0]), after)
    resolved = load.resolve(str(model.path), Work(tmp_path / "w"))
    assert resolved.head == "text" and resolved.base.digest == toy.digest
    assert torch.equal(logits(load.network(resolved)[0]), after)
    assert torch.equal(logits(load.network(model.base)[0]), logits(load.network(toy)[0]))  # switched off
    own = dict(made.network.module.named_parameters())
    assert all(torch.equal(own[n], p) for n, p in load.network(toy)[0].named_parameters())
    assert made.finish(tmp_path / "b").digest == model.digest
    assert load.fingerprint(str(model.path)) != load.fingerprint(str(toy.path))


def trained(toy, folder, progress=silent, **changes):
    given = {"steps": 8, "batch": 4, "micro_tokens": 100, "optimizer": FAST, "checkpoint_every": 1e-6,
             "parameters": bound(size=4, dropout=0.1)}  # fmt: skip
    return sft.train(toy, maker.questions(16), Setup(**(given | changes), work=Work(folder, progress)))


def test_it_trains_is_killed_talks_and_is_asked(toy, tmp_path):
    whole = trained(toy, tmp_path / "whole")
    assert whole.notes["loss"]["last"] < whole.notes["loss"]["first"]
    with pytest.raises(Interrupt):
        trained(toy, tmp_path / "killed", Stopping(5))
    assert trained(toy, tmp_path / "killed").digest == whole.digest
    chats = [load.open(m) for m in (whole, toy)]
    asked = [[{"role": "user", "content": "the river"}]]
    texts = [chat.reply(asked * 2, Sampling(8))[0].text for chat in chats]
    sums = [chat.logprobs(["the river"], [" rises before"])[0].sum for chat in chats]
    assert texts[0] != texts[1] and sums[0] != sums[1]


def test_it_goes_on_with_its_own_and_with_no_other(toy, tmp_path):
    model = trained(toy, tmp_path / "a")
    again = bound(size=4)(network(model))
    assert all(one.drop.p == 0 for one in bottleneck.of(again.network.module))
    made = again.finish(tmp_path / "b")
    assert made.digest == model.digest and made.base == toy
    more = trained(model, tmp_path / "c")
    assert more.base == toy and more.notes["loss"]["first"] == pytest.approx(model.notes["loss"]["last"], rel=0.5)
    for name, values in (("bottleneck", {"size": 8}), ("bottleneck", {"size": 4, "act": "relu"}),
                         ("series_adapter", {"size": 4})):  # fmt: skip
        with pytest.raises(MetierError, match=r"the model has bottlenecks with size 4, tanh, scale 1 \(down_proj"):
            bound(name, **values)(network(model))


def test_lora_lies_over_it_and_is_folded_into_what_it_lies_on(toy, tmp_path):
    below = trained(toy, tmp_path / "a")
    over = trained(below, tmp_path / "b", parameters=method("train.parameters", "prepare", "lora", rank=2))
    assert over.base == below
    opened, folded = (load.network(over, merged=merged)[0] for merged in (False, True))
    assert torch.allclose(logits(opened), logits(folded), atol=1e-4)
    assert not torch.allclose(logits(folded), logits(load.network(below)[0]), atol=1e-3)
    assert all("bottleneck" not in n for n in lora_places(opened)) and list(bottleneck.of(folded))
    with pytest.raises(MetierError, match="has bottlenecks beside its matrices"):
        Weights(over)


def lora_places(module):
    return {n for n, _ in module.named_parameters() if "lora_" in n}


def test_upon_an_adapter_of_peft_it_sits_on_what_that_made(toy, tmp_path):
    below = trained(toy, tmp_path / "a", parameters=method("train.parameters", "prepare", "lora", rank=2))
    made = prepared(below, size=4)
    assert torch.allclose(logits(made.network.module), logits(load.network(below)[0]), atol=1e-5)
    model = moved(made).finish(tmp_path / "b")
    assert model.base == below
    assert torch.allclose(logits(load.network(model)[0]), logits(made.network.module), atol=1e-5)


def test_what_needs_plain_weights_is_refused_in_a_sentence(toy, tmp_path):
    model = prepared(toy, size=4).finish(tmp_path / "a")
    words = "has bottlenecks beside its matrices, which cannot be folded into them"
    with pytest.raises(MetierError, match=f"train.parameters: 'toy' {words}"):
        full.prepare(network(model))
    with pytest.raises(MetierError, match=words):
        Weights(model)
    for merge, gguf in ((True, False), (False, True)):
        with pytest.raises(MetierError, match=f"export: 'toy' {words}; metier opens it as it is"):
            publish.write(model, Report({"measures": []}), str(tmp_path / "out"), merge=merge, gguf=gguf,
                          work=Work(tmp_path / "w"))  # fmt: skip
        assert not (tmp_path / "out").exists()


def test_its_published_folder_opens_and_its_card_says_with_what(toy, tmp_path):
    model = moved(prepared(toy, size=4)).finish(tmp_path / "a")
    publish.write(model, Report({"measures": []}), str(tmp_path / "out"), merge=False, gguf=False,
                  work=Work(tmp_path / "w"))  # fmt: skip
    opened = load.resolve(str(tmp_path / "out"), Work(tmp_path / "v"))
    assert torch.equal(logits(load.network(opened)[0]), logits(load.network(model)[0]))
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "metier chat expert" in card and "metier is needed" in card and "PeftModel" not in card
    assert 'library_name: "metier"' in card or "library_name: metier" in card


def test_a_copy_of_the_network_has_bottlenecks_of_its_own(toy):
    """A frozen teacher is one."""
    module = moved(prepared(toy, size=4)).network.module
    before = logits(module)
    copied = copy.deepcopy(module)
    with torch.no_grad():
        for one in bottleneck.of(module):
            one.up.zero_()
    assert torch.equal(logits(copied), before) and not torch.equal(logits(module), before)


def test_a_classifier_keeps_its_head_beside_them(toy, tmp_path):
    rows = [{"id": r["id"], "text": r["text"], "label": "wet" if "river" in r["text"] else "dry"}
            for r in maker.texts(40)]  # fmt: skip
    setup = Setup(steps=20, batch=16, optimizer=FAST, parameters=bound(size=4), micro_tokens=300, work=Work(tmp_path))
    made = head.train(toy, Records.from_rows(rows), setup)
    assert made.notes["loss"]["last"] < made.notes["loss"]["first"]
    again = load.resolve(str(made.path), Work(tmp_path / "w"))
    assert again.head == "labels" and again.base.head == "text"
    found = [load.open(m).logprobs(["the river"], ["wet"])[0].sum for m in (made, again)]
    assert found[0] == found[1] != pytest.approx(-0.693, abs=1e-2)


def test_its_memory_is_foreseen(toy):
    step = "b: {use: train.loop.pretrain, model: $a, data: $t, steps: 1, batch: 1, length: 64, parameters: PARAMETERS}"
    text = f"a: {{use: model, path: {toy.path}}}\nt: data.ingest.general_text\n{step}"
    memory = [
        preflight.foresee(recipe.check(recipe.parse(text.replace("PARAMETERS", p)))).needs[-1].memory
        for p in ("{use: bottleneck, size: 4}", "{use: parallel_adapter, size: 64}")
    ]
    assert 0 < memory[0] < memory[1]


@pytest.mark.parametrize("values, words", [
    ({"targets": ["w_proj"]}, "no matrix is called 'w_proj'; there are: down_proj,"),
    ({"targets": ["self_attn"]}, "no matrix is called 'self_attn'"),
])  # fmt: skip
def test_names_that_are_not_there_are_refused(toy, values, words):
    with pytest.raises(MetierError, match=f"train.parameters.bottleneck: {words}"):
        prepared(toy, **values)


def test_an_unknown_architecture_is_refused_naming_its_matrices(toy):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.mixer = nn.Linear(4, 4)

        def get_decoder(self):
            return self

    odd = Network(Odd(), load.tokenizer_of(toy), toy)
    for file in (series_adapter, parallel_adapter):
        with pytest.raises(MetierError, match=r"does not know the matrices of this architecture; .* 'targets': mixer"):
            file.prepare(odd)
    strange = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=20))  # its matrices are Conv1D
    with pytest.raises(MetierError, match="no matrix is called 'c_fc'"):
        method_file.prepare(Network(strange, load.tokenizer_of(toy), toy), targets=["c_fc"])


@pytest.mark.parametrize("change, words", [
    ({"places": {"q_proj": "between"}}, "does not say what its bottlenecks are like"),
    ({"size": 0}, "does not say what its bottlenecks are like"),
    ({"size": 8}, r"do not fit the model below: '.*\.down'"),
    ({"places": {"q_proj": "parallel"}}, r"do not fit the model below: '.*_proj\.bottleneck\.down'"),
    ({"base_model_name_or_path": "/gone/model"}, "is an adapter of '/gone/model', which is not there"),
])  # fmt: skip
def test_a_damaged_folder_is_refused_in_a_sentence(toy, tmp_path, change, words):
    path = prepared(toy, size=4).finish(tmp_path / "a").path
    facts = json.loads((path / "bottleneck.json").read_text())
    (path / "bottleneck.json").write_text(json.dumps(facts | change))
    with pytest.raises(MetierError, match=words):
        load.network(load.resolve(str(path), Work(tmp_path / "w")))
    (path / "bottleneck.safetensors").unlink()
    with pytest.raises(MetierError, match="without safetensors weights"):
        load.resolve(str(path), Work(tmp_path / "w"))
