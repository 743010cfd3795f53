"""Whatever is wrong in a study is one sentence with file and line, before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from metier.options import MetierError
from metier.study import read
from small_study import STUDY, written


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("long: {expert.steps: 30}", "long: {expert.stepz: 30}",
         "study.yaml, line 14: arm 'long': train.loop.pretrain: has no option 'stepz'; did you mean 'steps'?"),
        ("long: {expert.steps: 30}", "long: {exprt.steps: 30}",
         "study.yaml, line 14: arm 'long': exprt.steps: has no step or option 'exprt'; did you mean 'expert'?"),
        ("long: {expert.steps: 30}", "long: {other: {use: model}}",
         "study.yaml, line 14: arm 'long': the recipe: has no step 'other'; it has: base, chunks, divided, domain, "
         "expert, report"),
        ("long: {expert.steps: 30}", "long: {expert.steps: 0}",
         "study.yaml, line 14: arm 'long': train.loop.pretrain: 'steps' must be at least 1, got 0"),
        ("long: {expert.steps: 30}", "long: 30",
         "study.yaml, line 14: 'arms' must be a map of names to options, '{expert.epochs: 2}', got 'long': 30"),
        ("long: {expert.steps: 30}", "short: {expert.steps: 30}", "study.yaml, line 14: 'short' stands twice"),
        ("long: {expert.steps: 30}", "long: {expert.optimizer.lr: 1}",
         "study.yaml, line 14: arm 'long' and the grid both set 'expert.optimizer.lr'"),
        ("long: {expert.steps: 30}", "long: {expert.steps: 30, report.chats: {expert: $base}}",
         "study.yaml, line 14: arm 'long': no report needs what 'expert.steps' sets: nothing measured would change"),
        ("steps: 2, batch", "stepz: 2, batch",
         "study.yaml, line 9: train.loop.pretrain: has no option 'stepz'; did you mean 'steps'?"),
        ("minus: short,", "minus: shrt,", "study.yaml, line 19: a claim: has no arm 'shrt'; did you mean 'short'?"),
        ('holds: "< 0"', 'holds: "about 0"', "study.yaml, line 19: analyse.differences: 'holds' must be a "
         "comparison such as \"< 0\" or \">= -0.03\", got 'about 0'"),
        (', holds: "< 0"', "", "study.yaml, line 19: analyse.differences: needs 'holds' (a comparison such as "
         '"< 0" or ">= -0.03")'),
        ("minus: short,", "minus: short, arm: long,",
         "study.yaml, line 19: analyse.differences: has no option 'arm'; did you mean 'arms'?"),
        ("minus: short,", "use: analyse.diferences, minus: short,",
         "study.yaml, line 19: a claim: has no method 'analyse.diferences'; did you mean 'differences'?"),
        ("metric: domain.bits_per_byte", "metric: bits_per_byte", "study.yaml, line 19: a study: has no metric "
         "'bits_per_byte'; it has: step.number, task.measure"),
        ("metric: domain.bits_per_byte", "metric: cost.second",
         "study.yaml, line 19: a study: has no metric 'cost.second'; did you mean 'cost.seconds'?"),
        ("minus: short,", "at: {expert.optimizer.lr: 1e-4}, minus: short,", "study.yaml, line 19: the grid: has no "
         "point 'expert.optimizer.lr: 1e-4'; did you mean 'expert.optimizer.lr: 1e-3'?"),
        ("seeds: [0, 1]", "seeds: [0, 0]", "study.yaml, line 17: 'seeds' names something twice: [0, 0]"),
        ("seeds: [0, 1]", "seeds: [0, one]", "study.yaml, line 17: 'seeds' must be a list of whole numbers, "
         "got [0, 'one']"),
        ("seeds: [0, 1]", "seeds: [-1]", "study.yaml, line 17: 'seeds' must be at least 0, got -1"),
        ("seeds: [0, 1]", "seeds: [0, 1]\nseeded: [exprt.seed]",
         "study.yaml, line 18: 'seeded': has no step 'exprt'; did you mean 'expert'?"),
        ("seeds: [0, 1]", "seeds: [0, 1]\nreports: [domain]",
         "study.yaml, line 18: 'reports': has no report 'domain'; it has: report"),
        ("seeds: [0, 1]", "seeds: [0, 1]\nchat: expt",
         "study.yaml, line 18: the reports: has no chat 'expt'; did you mean 'expert'?"),
        ("seeds: [0, 1]", "seeds: [0, 1]\npareto: {x: a.b, z: c.d}",
         "study.yaml, line 18: 'pareto': has no key 'z'; it has: at, minus, x, y"),
        ("seeds: [0, 1]", "seeds: [0, 1]\npareto: {at: {expert.optimizer.lr: 3}}",
         "study.yaml, line 18: the grid: has no point 'expert.optimizer.lr: 3'; did you mean "
         "'expert.optimizer.lr: 1e-3'?"),
        ("seeds: [0, 1]", "seed: [0, 1]", "study.yaml, line 17: a study: has no key 'seed'; did you mean 'seeds'?"),
        ("chats: {expert: $expert}", "chats: {expert: $expert, base: $base}", "study.yaml, line 4: several chats are "
         "asked (expert, base); 'chat: …' says which stands for the arm"),
        ("lr: [1e-3, 1e-2]", "lr: []", "study.yaml, line 16: 'grid' must be a map of options to lists of values, got "
         "'expert.optimizer.lr': []"),
        ("lr: [1e-3, 1e-2]", "lr: [1e-3, fast]", "study.yaml, line 15: short, lr=fast: train.optimizer.adamw: "
         "'lr' must be a number at least 0, got 'fast'"),
        ("title: What", "title: [What", "study.yaml, line 2: not YAML: expected ',' or ']', but got ':'"),
    ],
)  # fmt: skip
def test_a_fault_is_one_sentence_with_its_line(
    tmp_path: Path, model: Path, documents: Path, old: str, new: str, sentence: str
) -> None:
    with pytest.raises(MetierError) as error:
        read.read(written(tmp_path, model, documents, {old: new}))
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    "text", ["", "[]", "a study", "title: x", "recipe: {}", "recipe: none.yaml", "recipe: 3", "\x00"]
)
def test_what_is_no_study_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "study.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(MetierError, match=r"^study\.yaml"):
        read.read(tmp_path / "study.yaml")


def test_cells_are_arms_at_points_with_seeds(tmp_path: Path, model: Path, documents: Path) -> None:
    study = read.read(written(tmp_path, model, documents))
    assert [c.label for c in study.cells] == [
        f"{arm}, lr={lr}, seed {seed}" for seed in (0, 1) for lr in ("1e-3", "1e-2") for arm in ("short", "long")
    ]
    last = {call.name: call.arguments for call in study.cells[-1].calls}
    assert (last["expert"]["steps"], last["expert"]["seed"]) == (30, 1)
    assert last["expert"]["optimizer"].arguments["lr"] == 0.01
    assert study.reference == "short" and study.chat == "expert" and study.papers == [8]


def test_a_whole_step_set_by_an_arm_takes_the_grid_and_stays_as_it_was(
    tmp_path: Path, model: Path, documents: Path
) -> None:
    whole = ("long: {expert: {use: train.loop.pretrain, model: $base, data: $domain.dev, steps: 9, batch: 2, "
             "parameters: full, optimizer: {use: adamw, lr: 1}}}")  # fmt: skip
    study = read.read(written(tmp_path, model, documents, {"long: {expert.steps: 30}": whole}))
    rates = [{c.name: c.arguments for c in cell.calls}["expert"]["optimizer"].arguments["lr"] for cell in study.cells]
    assert rates == [0.001, 0.001, 0.01, 0.01] * 2
    assert study.arms["long"]["expert"]["optimizer"]["lr"] == 1


def test_a_recipe_may_be_a_file_beside_the_study(tmp_path: Path, model: Path, documents: Path) -> None:
    inline = read.read(written(tmp_path, model, documents))
    text = (tmp_path / "study.yaml").read_text()
    start, end = text.index("recipe:\n"), text.index("arms:")
    (tmp_path / "own.yaml").write_text(text[start + len("recipe:\n") : end])
    (tmp_path / "study.yaml").write_text(text[:start] + "recipe: own.yaml\n" + text[end:])
    assert [c.label for c in read.read(tmp_path / "study.yaml").cells] == [c.label for c in inline.cells]
    (tmp_path / "own.yaml").write_text(text[start + len("recipe:\n") : end].replace("use: split", "use: splt"))
    with pytest.raises(MetierError, match=r"own\.yaml, line 3: divided: has no method 'splt'; did you mean 'split'"):
        read.read(tmp_path / "study.yaml")


def test_only_what_reports_need_is_run(tmp_path: Path, model: Path, documents: Path) -> None:
    more = "  spare: {use: train.loop.pretrain, model: $base, data: $domain.train, steps: 900, batch: 4}\nreport"
    study = read.read(written(tmp_path, model, documents, {"  report": f"{more[:-6]}  report"}))
    assert all("spare" not in {c.name for c in cell.calls} for cell in study.cells)


def test_named_options_take_the_seed_instead(tmp_path: Path, model: Path, documents: Path) -> None:
    study = read.read(written(tmp_path, model, documents, {"seeds: [0, 1]": "seeds: [7]\nseeded: [divided.seed]"}))
    first = {c.name: c.arguments for c in study.cells[0].calls}
    assert first["divided"]["seed"] == 7 and first["expert"]["seed"] == 0
    assert STUDY.count("seed") == 1
