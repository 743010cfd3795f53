"""What a recipe is said to take, on a toy model: shapes exactly, trials against the run itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch

from metier import preflight, recipe, runner, trial
from metier.artefacts import Model
from metier.calls import Call
from metier.lm import size
from metier.options import MetierError
from metier.preflight import GIB, Estimate, Need
from metier.store import Store

TEXT = """
base: {{use: model, path: {model}}}
text: data.ingest.general_text
expert: {{use: train.loop.pretrain, model: $base, data: $text, steps: 12, batch: 4, length: 64, parameters: full}}
general: {{use: tasks.general, choice: 40, prose: 8, arithmetic: 30, grammar: 30, forms: 2}}
after: {{use: evaluate.compare, chats: {{base: $base, expert: $expert}}, tasks: [$general], max_tokens: 4}}
"""


def calls(toy: Model, text: str = TEXT) -> list[Call]:
    return recipe.check(recipe.parse(text.format(model=toy.path)))


def test_shapes_are_those_of_the_model(toy: Model) -> None:
    network = size.network(str(toy.path))
    assert network is not None
    from metier.lm import load

    real = load.network(toy)[0]
    assert {n: p.shape for n, p in network.named_parameters()} == {n: p.shape for n, p in real.named_parameters()}
    assert all(p.device == torch.device("meta") for p in network.parameters())
    total = sum(p.numel() for p in real.parameters())
    whole, kept = size.trained(network, 2, 16), size._kept(network, 2, 16)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    assert size._kept(network, 2, 16) == 0
    moments = 3 * 4 * total  # gradient and two moments
    assert whole - size.trained(network, 2, 16) == pytest.approx(moments + size.HEAP * kept, abs=1)
    network.requires_grad_(True)
    assert size.written(network, whole=True) == 4 * (4 * 3 * total + total)


@pytest.mark.parametrize("options", [{}, {"last": 1}, {"dropout": 0.1}])
def test_what_is_kept_for_backward_is_counted_as_autograd_keeps_it(toy: Model, options: dict[str, Any]) -> None:
    """On shapes the same bytes as on the real network, as far as a storage is kept once."""
    from metier.lm import load
    from metier.lm.loss import decoder
    from metier.train.parameters import lora
    from metier.train.setup import Network

    shapes = size.network(str(toy.path))
    assert shapes is not None
    foreseen = size._kept(lora.prepare(Network(shapes, cast(Any, None), toy), **options).network.module, 2, 24)
    module, tokenizer = load.network(toy)
    part = decoder(lora.prepare(Network(module, tokenizer, toy), **options).network.module)
    own = {t.untyped_storage().data_ptr() for t in (*part.parameters(), *part.buffers())}
    kept: dict[int, int] = {}
    alive = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        part.train()(input_ids=torch.zeros((2, 24), dtype=torch.long), use_cache=False)
    assert foreseen == pytest.approx(sum(kept.values()), rel=0.02)


@pytest.mark.parametrize("options", [{}, {"last": 1}])
def test_of_recomputed_blocks_one_is_kept_and_what_enters_the_others(toy: Model, options: dict[str, Any]) -> None:
    from metier.train.parameters import lora
    from metier.train.setup import Network

    shapes = size.network(str(toy.path))
    assert shapes is not None
    module = lora.prepare(Network(shapes, cast(Any, None), toy), **options).network.module
    blocks, width = module.config.num_hidden_layers, module.config.hidden_size
    moving = options.get("last", blocks)
    whole, again = (size._kept(module, 2, 24, recompute) for recompute in (False, True))
    enters = 4 * 2 * 24 * width
    assert again - moving * enters == pytest.approx(whole / moving, rel=0.1)
    assert size.trained(module, 2, 24) - size.trained(module, 2, 24, recompute=True) == pytest.approx(
        size.HEAP * (whole - again), abs=1
    )


def test_recompute_is_foreseen(toy: Model) -> None:
    written = (TEXT, TEXT.replace("parameters: full", "parameters: full, recompute: true"))
    kept, again = (
        next(need.memory for need in preflight.foresee(calls(toy, text)).needs if need.step == "expert")
        for text in written
    )
    assert size.LIBRARIES < again < kept


def test_nothing_runs_to_foresee(toy: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METIER_HOME", str(tmp_path))
    needs = {need.step: need for need in preflight.foresee(calls(toy)).needs}
    assert needs["expert"].memory > size.LIBRARIES < needs["after"].memory
    assert needs["text"].memory == 0 and needs["expert"].disk > 0
    assert not list(tmp_path.iterdir())


def test_a_trial_keeps_what_needs_no_model_and_leaves_nothing_else(toy: Model, tmp_path: Path) -> None:
    store = Store(tmp_path)
    estimate = trial.measure(calls(toy), store)
    needs = {need.step: need for need in estimate.needs}
    assert [name for name, need in needs.items() if need.kept] == ["base", "text", "general"]
    assert needs["expert"].seconds and needs["after"].seconds and estimate.seconds
    assert sorted(p.name for p in store.steps.iterdir() if p.name.endswith(".part")) == []
    done = runner.run(calls(toy), store)
    assert [name for name, d in done.items() if d.cached] == ["base", "text", "general"]
    again = trial.measure(calls(toy), store)
    assert all(need.kept for need in again.needs) and again.seconds == 0


def test_what_cannot_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MetierError, match=r"step 'expert' needs 100000.0 GiB of memory and .* are free: lower"):
        preflight.refuse(Estimate([Need("expert", "train.loop.sft", None, 100_000 * GIB, 0)]), tmp_path)
    with pytest.raises(MetierError, match=r"needs 100000.0 GiB of disk and .* are free in"):
        preflight.refuse(Estimate([Need("expert", "train.loop.sft", None, 0, 100_000 * GIB)]), tmp_path)
    preflight.refuse(Estimate([Need("expert", "train.loop.sft", None, 100_000 * GIB, 0, kept=True)]), tmp_path)


def test_a_budget_is_the_time() -> None:
    assert Estimate([Need("plan", "plan", None, 0, 0)], 600.0).seconds == 600
    assert Estimate([Need("a", "x", None, 0, 0)]).seconds is None
    assert Estimate([Need("a", "x", 2.0, 0, 0), Need("b", "x", 3.0, 0, 0, kept=True)]).seconds == 2


def test_an_adapter_that_must_see_weights_is_not_refused(toy: Model) -> None:
    """Its share of the weights cannot be told from shapes; what it needs at least, can."""
    text = TEXT.replace("parameters: full", "parameters: {{use: adapter, kind: shira, rank: 4}}")
    needs = {need.step: need for need in preflight.foresee(calls(toy, text)).needs}
    assert needs["expert"].memory == needs["after"].memory > size.LIBRARIES


def test_a_trial_touches_nothing_outside_and_concludes_nothing_from_stand_ins(toy: Model, tmp_path: Path) -> None:
    text = (
        TEXT
        + f"told: {{{{use: write, data: $text, to: {tmp_path}/told.jsonl}}}}\n"
        + (
            "verdict: {{use: analyse.adaptation, reports: [$after], control: null, passages: null}}\n"
            f"out: {{{{use: export, model: $expert, verdict: $verdict, to: {tmp_path}/expert}}}}\n"
        )
    )
    needs = {need.step: need for need in trial.measure(calls(toy, text), Store(tmp_path / "home")).needs}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home"]
    assert [needs[n].seconds for n in ("told", "verdict", "out")] == [0.0, 0.0, 0.0]
    assert needs["expert"].seconds and needs["after"].seconds
