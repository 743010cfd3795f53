"""What transformers' Trainer gets wrong without a word, and what our training does instead: one test a fact.

Elsewhere: that listing methods imports no torch (tests/test_catalogue.py), torn checkpoints by themselves
(tests/train/test_checkpoint.py), SIGKILL at random moments (tests/train/test_resume.py).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import os
import pickletools
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from metier import recipe, runner
from metier.artefacts import Records
from metier.laws import toy as maker
from metier.laws._training import Interrupt, Stopping
from metier.options import MetierError
from metier.store import Store, Work, silent
from metier.train import examples
from metier.train.feed import Feed
from metier.train.loop import pretrain, sft
from metier.train.objective import cross_entropy
from metier.train.run import Run
from metier.train.setup import Setup, method
from metier.train.slots import SLOTS, refuse
from metier.train.state import accelerator

sys.path.insert(0, str(Path(__file__).parent))


def sgd(groups, *, lr=0.1):
    return torch.optim.SGD(groups, lr=lr)


def full():
    return method("train.parameters", "prepare", "full")


def setup(folder, progress=silent, **changes):
    given = {"epochs": None, "batch": 8, "parameters": "full", "optimizer": sgd, "precision": "fp32"} | changes
    return Setup(**given, work=Work(folder, progress))


def run(toy, folder, data, **changes):
    return Run(toy, data, setup(folder, **changes), examples.conversations, "test")


def length(gradients):
    return float(torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradients])))


# -- steps -----------------------------------------------------------------------------------------


def ragged():
    """Eight conversations of 30 words: the first reply has 1 of them, the last 29."""
    words = [maker.WORDS[7 * i % len(maker.WORDS)] for i in range(30)]
    rows = []
    for i in range(8):
        asked, reply = " ".join(words[: 29 - 4 * i]), " ".join(words[29 - 4 * i :])
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": reply}]
        rows.append({"id": str(i), "messages": turns})
    return Records.from_rows(rows)


def mean_of_means(model, batch, *, micro_batches):
    """What a mean per micro-batch comes to: each one weighs the same, however many tokens it supervises."""
    own = float((batch.labels[:, 1:] != -100).sum())
    return cross_entropy.loss(model, dataclasses.replace(batch, weight_in_step=own)) / micro_batches


def test_four_micro_batches_of_two_are_one_of_eight_and_a_mean_of_means_is_not(toy, tmp_path):
    def stepped(micro_tokens, objective="cross_entropy"):
        made = run(toy, tmp_path, ragged(), steps=1, order="given", micro_tokens=micro_tokens, objective=objective,
                   max_grad_norm=0.0)  # fmt: skip
        cut = [len(rows) for rows in made.feed.cut(made.plan[0])]
        return made.step(), made.weights, cut

    def apart(one, other):
        return max(float((one[name] - other[name]).detach().abs().max()) for name in one)

    longest = int(run(toy, tmp_path, ragged(), steps=1).examples.lengths.max())
    (whole, weights, at_once), (parts, parts_weights, cut) = stepped(4000), stepped(2 * longest)
    assert at_once == [8] and cut == [2, 2, 2, 2]
    assert abs(whole["loss"] - parts["loss"]) <= 1e-6 and apart(weights, parts_weights) <= 1e-6
    assert whole["grad_norm"] == pytest.approx(parts["grad_norm"], abs=1e-6)

    naive, naive_weights, _ = stepped(4000, functools.partial(mean_of_means, micro_batches=1))
    assert abs(whole["loss"] - naive["loss"]) <= 1e-6 and apart(weights, naive_weights) <= 1e-6  # at once it is right
    naive, naive_weights, _ = stepped(2 * longest, functools.partial(mean_of_means, micro_batches=4))
    assert abs(whole["loss"] - naive["loss"]) > 1e-2 and apart(weights, naive_weights) > 1e-2


def test_masked_then_clipped_then_stepped_at_the_rate_of_the_schedule(toy, tmp_path):
    """A hook before the optimizer would mask what is clipped already, one behind it would lose its rate."""
    seen = []

    def prepare(network):
        made = full()(network)
        moving = [p for group in made.groups for p in group["params"]]
        before = [p.detach().clone() for p in moving]

        def edit(clock):
            seen.append(("edit", length([p.grad for p in moving])))
            for p in moving[1:]:
                p.grad.zero_()
            seen.append(("masked", length([p.grad for p in moving])))

        def after_step(clock):
            seen.append(("after", length([p.detach() - b for p, b in zip(moving, before, strict=True)])))
            before[:] = [p.detach().clone() for p in moving]
            for group in clock.optimizer.param_groups:
                group["lr"] = 77.0

        return dataclasses.replace(made, edit=edit, after_step=after_step)

    def watched(groups):
        made = sgd(groups)
        moving = [p for group in groups for p in group["params"]]
        made.register_step_pre_hook(lambda *_: seen.append(("optimizer", length([p.grad for p in moving]))))
        return made

    given = {"steps": 3, "micro_tokens": 80, "max_grad_norm": 0.05}
    r = run(toy, tmp_path, maker.questions(24), parameters=prepare, optimizer=watched, schedule="linear", **given)
    assert all(len(r.feed.cut(window)) > 1 for window in r.plan)  # one call of each hook all the same
    plain = run(toy, tmp_path, maker.questions(24), **given).step()
    rows = [r.step() for _ in r.plan]
    assert [name for name, _ in seen] == ["edit", "masked", "optimizer", "after"] * 3
    assert seen[0][1] == pytest.approx(plain["grad_norm"], rel=1e-5)  # after the last micro-batch, not before
    for step, row in enumerate(rows):
        whole, masked, taken, moved = (number for _, number in seen[4 * step : 4 * step + 4])
        assert masked < 0.9 * whole and row["grad_norm"] == pytest.approx(masked, rel=1e-5)
        assert taken == pytest.approx(0.05, rel=1e-3)  # clipped by its own length, not by that of all gradients
        rate = 0.1 * (1 - (step + 1) / 4)
        assert row["lr"] == pytest.approx(rate) and moved == pytest.approx(rate * taken, rel=1e-3)


@pytest.mark.parametrize("clips, edits, processes, words", [
    (1.0, False, 1, "fused_optimizer: needs max_grad_norm 0, got 1.0"),
    (0.0, True, 1, r"fused_optimizer: leaves no gradient that \S*test_facts could edit"),
    (0.0, False, 2, "fused_optimizer: runs in 1 process, got 2"),
])  # fmt: skip
def test_an_optimizer_that_moves_inside_backward_refuses_what_it_would_ignore(
    toy, tmp_path, monkeypatch, clips, edits, processes, words
):
    """By name and before anything is written, even where its file does not declare it."""
    import fused_optimizer

    monkeypatch.delattr(fused_optimizer, "NEEDS")

    def prepare(network):
        return dataclasses.replace(full()(network), edit=(lambda clock: None) if edits else None)

    given = setup(tmp_path, steps=2, micro_tokens=4000, max_grad_norm=clips, parameters=prepare,
                  optimizer=fused_optimizer.optimizer)  # fmt: skip
    with pytest.raises(MetierError, match=words):
        refuse(given, "test", tuple(SLOTS), processes)
        sft.train(toy, maker.questions(8), given)
    assert list(tmp_path.iterdir()) == []


# -- values ----------------------------------------------------------------------------------------


RECIPE = """
base: {use: model, path: TOY}
country: {use: data.ingest.invented, entities: 8}
expert: {use: train.loop.pretrain, model: $base, data: $country, steps: 1, optimizer: {use: adamw, lr: 0.0001}}
"""


def test_a_rate_that_yaml_takes_for_text_is_the_same_number_and_the_same_step(toy, tmp_path):
    assert yaml.safe_load("1e-4") == "1e-4" and yaml.safe_load("0.0001") == 0.0001
    store = Store(tmp_path)
    plain = RECIPE.replace("TOY", str(toy.path))
    above = runner.run(recipe.check(recipe.parse(plain))[:2], store)

    def expert(text, changes=None):
        call = recipe.check(recipe.parse(text, "r.yaml", changes or {}))[-1]
        return call.arguments["optimizer"].arguments["lr"], runner.Runner(store, silent, above, 0.0).key(call)

    lr, key = expert(plain)
    assert type(lr) is float and lr == 0.0001
    for written in ("1e-4", "'0.0001'", "1.0e-4", ".0001"):
        assert expert(plain.replace("0.0001", written)) == (lr, key), written
    assert expert(plain, {"expert.optimizer.lr": "1e-4"}) == (lr, key)
    assert expert(plain.replace("0.0001", "1e-5"))[1] != key


# -- going on --------------------------------------------------------------------------------------

QUESTIONS = maker.questions(40)  # 5 steps an epoch


def training(folder, progress=silent, **changes):
    return setup(folder, progress, **{
        "epochs": 2, "micro_tokens": 90, "parameters": method("train.parameters", "prepare", "lora", dropout=0.1),
        "optimizer": method("train.optimizer", "optimizer", "adamw", lr=1e-3), "dev": maker.questions(6, seed=5),
        "evaluate_every": 4, "checkpoint_every": 1e-6,
    } | changes)  # fmt: skip


@pytest.fixture(scope="module")
def whole(toy, tmp_path_factory):
    """The result of one go, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return sft.train(toy, QUESTIONS, training(folder)), folder


def stopped(toy, folder, steps, **changes):
    with pytest.raises(Interrupt):
        sft.train(toy, QUESTIONS, training(folder, Stopping(steps), **changes))


def files(model):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in model.path.iterdir()}


def logged(folder, *kinds):
    """Rows of these kinds, without what the clock says."""
    rows = Work(folder).rows()
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows if set(kinds) & set(row)]


@pytest.fixture
def gone_on(monkeypatch):
    """The steps that were done when each training began or went on."""
    found = []
    resume = Run.resume
    monkeypatch.setattr(Run, "resume", lambda run: (resume(run), found.append(run.state.step)))
    return found


def test_a_second_epoch_that_is_gone_on_with_is_that_of_one_go(toy, whole, tmp_path, gone_on):
    """The order of an epoch comes from its number, not from a generator that a new process does not have."""
    plan = run(toy, tmp_path / "x", QUESTIONS, epochs=2).plan
    first, second = ([sorted(w.rows.tolist()) for w in plan if w.epoch == epoch] for epoch in (0, 1))
    assert len(first) == len(second) == 5 and first != second
    stopped(toy, tmp_path / "killed", 8)
    torch.manual_seed(987)
    again = sft.train(toy, QUESTIONS, training(tmp_path / "killed"))
    assert gone_on == [0, 7] and files(again) == files(whole[0]) and again.digest == whole[0].digest


def test_losses_are_those_of_the_steps_each_logged_once(toy, whole, tmp_path, gone_on):
    """Stopped three steps behind its last checkpoint: their rows are there already, and come again."""
    stopped(toy, tmp_path / "killed", 7, checkpoint_every="1h")
    assert [row["step"] for row in logged(tmp_path / "killed", "loss")] == [1, 2, 3, 4, 5, 6, 7]
    again = sft.train(toy, QUESTIONS, training(tmp_path / "killed"))
    assert gone_on == [0, 4]
    rows = logged(tmp_path / "killed", "loss", "dev_loss", "kept")
    assert rows == logged(whole[1], "loss", "dev_loss", "kept")
    losses = [row for row in rows if "loss" in row]
    assert [row["step"] for row in losses] == list(range(1, 11))
    told = {"first": losses[0]["loss"], "last": losses[-1]["loss"]}
    assert whole[0].notes["loss"] == again.notes["loss"] == told
    assert whole[0].notes["tokens_trained"] == again.notes["tokens_trained"] == sum(row["tokens"] for row in losses)


def test_a_checkpoint_without_its_optimizer_or_with_a_torn_one_is_skipped_by_name(toy, whole, tmp_path, gone_on):
    stopped(toy, tmp_path / "killed", 7)
    best, torn, newest = sorted((tmp_path / "killed" / "checkpoints").glob("step-*"))
    (newest / "optimizer.safetensors").unlink()
    os.truncate(torn / "optimizer.safetensors", 1000)
    again = sft.train(toy, QUESTIONS, training(tmp_path / "killed"))
    assert best.name == "step-000000004" and gone_on == [0, 4] and files(again) == files(whole[0])
    assert logged(tmp_path / "killed", "note") == [
        {"note": "checkpoint step-000000006 is skipped: optimizer.safetensors is missing"},
        {"note": "checkpoint step-000000005 is skipped: optimizer.safetensors is torn"},
    ]
    assert logged(tmp_path / "killed", "loss") == logged(whole[1], "loss")


def test_with_no_checkpoint_left_it_begins_again_and_says_so(toy, whole, tmp_path, gone_on):
    stopped(toy, tmp_path / "killed", 7)
    for optimizer in (tmp_path / "killed" / "checkpoints").glob("step-*/optimizer.safetensors"):
        optimizer.unlink()
    again = sft.train(toy, QUESTIONS, training(tmp_path / "killed"))
    assert gone_on == [0, 0] and files(again) == files(whole[0])
    said = [row["note"] for row in logged(tmp_path / "killed", "note")]
    missing = "is skipped: optimizer.safetensors is missing"
    assert said == [f"checkpoint step-00000000{n} {missing}" for n in (6, 5, 4)]


# -- files -----------------------------------------------------------------------------------------


def pickled(path):
    """Whether torch, numpy or pickle would unpickle the file, whatever it is called."""
    content = path.read_bytes()
    if path.suffix in (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt"):
        return True
    if zipfile.is_zipfile(io.BytesIO(content)):
        return any(name.endswith((".pkl", ".npy")) for name in zipfile.ZipFile(io.BytesIO(content)).namelist())
    try:
        return len(list(pickletools.genops(content))) > 1  # all the way to its STOP
    except ValueError:
        return False


def test_nothing_a_training_leaves_is_a_pickle(toy, tmp_path):
    import objective_with_memory as objective

    for zipped in (True, False):  # what would be found
        torch.save({"a": torch.ones(2)}, tmp_path / "saved", _use_new_zipfile_serialization=zipped)
        assert pickled(tmp_path / "saved")
    given = {"dev": maker.texts(4, seed=5), "objective": objective.loss, "length": 32, "epochs": None, "steps": 4}
    for name in ("full", "lora"):
        pretrain.train(toy, maker.texts(30), training(tmp_path / name, **given, parameters=name))
        found = [p for p in (tmp_path / name).rglob("*") if p.is_file()]
        suffixes = {p.suffix for p in found if p.parent.name.startswith("step-")}
        assert {p.stem for p in found} >= {"weights", "optimizer", "memory", "state", "manifest", "log"}
        assert suffixes == {".safetensors", ".json"} and not [p for p in found if pickled(p)]


# -- several processes -----------------------------------------------------------------------------


def test_two_processes_of_torchrun_train_what_one_trains(toy, tmp_path, monkeypatch):
    """Losses, rates, dev and weights; micro-batches that do not divide by two, a memory, going on, two stages."""
    import torchrun_fact

    toy.save(tmp_path)
    script = str(Path(__file__).with_name("torchrun_fact.py"))
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script, str(tmp_path)],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    first, second = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1))
    assert first == second and (first["world"], first["backend"]) == (2, "gloo")
    assert first["wrapper"] == "DistributedDataParallel"

    cuts = []
    mine = Feed.cut
    monkeypatch.setattr(Feed, "cut", lambda *given: cuts.append(mine(*given)) or cuts[-1])
    for train in torchrun_fact.TRAININGS:
        made = train(tmp_path / "one" / train.__name__, toy)
        one, two = (tmp_path / n / train.__name__ for n in ("one", "two"))
        rows, others = (logged(folder, "loss", "dev_loss", "kept", "note") for folder in (one, two))
        assert len(rows) == len(others) > 4
        for row, other in zip(rows, others, strict=True):
            assert row.keys() == other.keys()
            for name, value in row.items():
                near = pytest.approx(value, abs=1e-5) if isinstance(value, float) else value
                assert other[name] == near, (train.__name__, row, other)
        name = next(p.name for p in made.path.glob("*.safetensors"))
        weights, same = load_file(made.path / name), load_file(two / "model" / name)
        assert weights.keys() == same.keys()
        for key, tensor in weights.items():
            assert torch.allclose(tensor, same[key], rtol=0, atol=1e-5), (train.__name__, key)
    assert {len(cut) % 2 for cut in cuts} == {0, 1}  # the second process had an empty one to fill up


def test_processes_that_would_each_train_alone_are_refused(monkeypatch):
    """As when somebody made an Accelerator before us: under torchrun on CPUs it joins nobody."""
    assert accelerator().num_processes == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MetierError, match="train: 2 processes were started, but accelerate joins 1 here"):
        accelerator()


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED"])
def test_a_launcher_that_divides_the_model_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """On CPUs accelerate would wrap the model for data-parallel training without a word."""
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(MetierError, match=rf"train: every process holds the whole model; .* \(ACCELERATE_USE_{name}"):
        accelerator()
