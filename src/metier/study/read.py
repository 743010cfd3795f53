"""A study as written: read and checked whole, every cell of it, before anything runs.

    title: What a larger rank buys
    paper: 8                                         # papers it is about; one or several
    recipe: {…} or path/to/recipe.yaml               # its own, or a file beside the study
    arms:                                            # first the plain one; `$reference` and whole steps may be set too
      plain: {}
      careful: {expert.objective: {use: talr}, expert.optimizer.lr: 1e-5}
    grid: {expert.parameters.rank: [4, 16]}          # every arm at every point
    seeds: [0, 1, 2]                                 # of every training step; `seeded: [mixed.seed]` names others
    reports: [report]                                # steps that are read; all of `evaluate` when not given
    chat: expert                                     # whose answers stand for the arm, where several chats are asked
    claims:
      - {says: It forgets less, minus: plain, metric: general.bits_per_byte, holds: "< 0", at: {…}, arms: […]}
    pareto: {x: general.bits_per_byte, y: domain.bits_per_byte, minus: plain, at: {…}}

A cell is an arm at a grid point with a seed; only the steps its reports need are run. A metric is ``task.measure``,
``step.number`` of any report, or ``cost.seconds``. A claim uses `analyse.differences` unless it says ``use``.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from metier import catalogue, options, recipe
from metier.calls import Call, flat
from metier.options import MetierError, Parameter, Seed
from metier.study.plan import COSTS, Cell, Claim, Study, needed

KEYS = ("title", "about", "paper", "recipe", "arms", "grid", "seeds", "seeded", "reports", "chat", "claims", "pareto")
OWN = ("use", "says", "at")  # what a claim may say beside the options of its method
WORDS = {
    "arms": "names to options, '{expert.epochs: 2}'", "grid": "options to lists of values", "pareto": "x, y to metrics",
    "seeds": "whole numbers", "seeded": "options, '[expert.seed]'", "reports": "steps",
    "claims": "maps, '- {minus: …, metric: …, holds: …}'",
}  # fmt: skip


def read(path: Path) -> Study:
    """Raises MetierError with file and line for whatever is wrong in the study, its recipe, or any cell."""
    return _Reader(path, recipe.text_of(path)).study()


class _Reader:
    def __init__(self, path: Path, text: str) -> None:
        self.path, self.name, self.lines = path, path.name, {}  # type: ignore[var-annotated]
        self.raw = recipe.value(text, self.name)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if not isinstance(self.raw, dict) or not isinstance(root, yaml.MappingNode):
            raise MetierError(f"{self.name}: a study is a map with a recipe, 'recipe: …', and arms, seeds, claims")
        self._note(root, ())
        for key in self.raw:
            if key not in KEYS:
                raise self.fault(options.unknown("a study", str(key), KEYS, "key"), key)
        if "recipe" not in self.raw:
            raise MetierError(f"{self.name}: a study needs a recipe, 'recipe: …'")
        self.recipe, self.recipe_name = self._recipe(text, {k.value: v for k, v in root.value}["recipe"])
        self.steps = recipe.check(recipe.parse(self.recipe, self.recipe_name), self.recipe_name)
        self.arms = {arm: changes or {} for arm, changes in self._map("arms", dict).items()} or {"recipe": {}}
        self.grid = self._map("grid", list)
        self.seeds = [self._seed(seed) for seed in self._list("seeds", int)]
        self.reports = self._reports()
        names = [c.name for c in self.steps]
        for option in self._list("seeded", str):
            if option.partition(".")[0] not in names:
                raise self.fault(options.unknown("'seeded'", option.partition(".")[0], names, "step"), "seeded")

    def study(self) -> Study:
        cells = self._cells()
        claims = [self._claim(i, claim) for i, claim in enumerate(self._list("claims", dict))]
        pareto = self._map("pareto", (str, dict))
        named = [c.options["minus"] for c in claims if "minus" in c.options]
        reference = pareto.get("minus") or max(named, key=named.count, default=next(iter(self.arms)))
        if reference not in self.arms:
            raise self.fault(options.unknown("'pareto'", reference, self.arms, "arm"), "pareto", "minus")
        for key in pareto:
            if key not in ("x", "y", "minus", "at"):
                raise self.fault(options.unknown("'pareto'", key, ("x", "y", "minus", "at"), "key"), "pareto", key)
        try:
            self._at(pareto)
        except MetierError as error:
            raise self.fault(error, "pareto", "at") from None
        for place, metric in [
            *((("claims", i), m) for i, c in enumerate(claims) for m in c.metrics),
            *((("pareto", k), v) for k, v in pareto.items() if k in ("x", "y")),
        ]:
            first, _, rest = metric.partition(".")
            if not rest or (first == "cost" and rest not in COSTS):
                known = [f"cost.{c}" for c in COSTS] if rest else ["task.measure", "step.number"]
                raise self.fault(options.unknown("a study", metric, known, "metric"), *place)
        papers = self.raw.get("paper", [])
        return Study(
            self.path, str(self.raw.get("title") or self.path.resolve().parent.name), str(self.raw.get("about") or ""),
            papers if isinstance(papers, list) else [papers], self.arms, self.grid, self.seeds, self.reports,
            self._chat(cells), claims, pareto, reference, cells,
        )  # fmt: skip

    def _cells(self) -> list[Cell]:
        """Seed by seed, point by point, arm by arm: what is compared stands together."""
        points = [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]
        seeded = {arm: self._arm(arm, changes) for arm, changes in self.arms.items()}
        reached = {name for names, _ in seeded.values() for name in names}
        for path in self.grid:
            if path.partition(".")[0] not in reached:
                raise self.fault(f"no report needs what '{path}' sets: nothing measured would change", "grid", path)
        if self.seeds and not any(takes for _, takes in seeded.values()):
            raise self.fault("no training step takes the seeds; name what does, 'seeded: [step.seed]'", "seeds")
        cells = []
        for seed, point, arm in itertools.product(self.seeds or (None,), points, self.arms):
            drawn = {} if seed is None else dict.fromkeys(seeded[arm][1], seed)
            calls = self._calls(
                {**self.arms[arm], **point, **drawn}, Cell(arm, point, None, []).label, "grid", "seeded"
            )
            cells.append(Cell(arm, point, seed, calls))
        return cells

    def _arm(self, arm: str, changes: Mapping[str, Any]) -> tuple[set[str], list[str]]:
        """The steps an arm needs and the options that take its seed: those named, or that of every training step."""
        calls = self._calls(changes, f"arm '{arm}'", "arms", arm)
        names = {c.name for c in calls}
        for path in changes:
            if path in self.grid:
                raise self.fault(f"arm '{arm}' and the grid both set '{path}'", "arms", arm, path)
            if path.partition(".")[0] not in names:
                raise self.fault(f"arm '{arm}': no report needs what '{path}' sets: nothing measured would change",
                                 "arms", arm, path)  # fmt: skip
        trains = [c.name for c in calls if c.method.room.startswith("train.") and "seed" in c.arguments]
        named = self._list("seeded", str)
        return names, [p for p in named if p.partition(".")[0] in names] if named else [f"{n}.seed" for n in trains]

    def _calls(self, changes: Mapping[str, Any], who: str, *place: Any) -> list[Call]:
        try:
            steps = recipe.parse(self.recipe, self.recipe_name, copy.deepcopy(dict(changes)))
            known = [c.name for c in self.steps]
            for step in steps:
                if step.name not in known:
                    raise options.unknown("the recipe", step.name, known, "step")
            return needed(recipe.check(steps, self.recipe_name), self.reports)
        except MetierError as error:
            told = re.sub(rf"^({re.escape(self.recipe_name)}(, line \d+)?: |--set )", "", str(error))
            raise self.fault(f"{who}: {told}", *place) from None

    def _reports(self) -> list[str]:
        returns = {c.name: c.method.returns for c in self.steps}
        found = self._list("reports", str) or [c.name for c in self.steps if c.method.room == "evaluate"]
        for name in found:
            if returns.get(name) != "Report":
                known = [n for n, kind in returns.items() if kind == "Report"]
                raise self.fault(options.unknown("'reports'", name, known, "report"), "reports")
        if not found:
            raise self.fault(
                "no step of the recipe is of 'evaluate'; name what is to be read, 'reports: […]'", "recipe"
            )
        return found

    def _claim(self, i: int, given: Mapping[str, Any]) -> Claim:
        try:
            method = catalogue.find(str(given.get("use", "analyse.differences")), "a claim", "analyse")
            wanted = {p.name: p for p in flat(catalogue.load(method)) if p.option and p.kind == "value"}
            for key in given:
                if key not in OWN and key not in wanted:
                    raise options.unknown(method.name, str(key), [*wanted, *OWN])
            for key, parameter in wanted.items():
                if parameter.required and key not in given:
                    raise MetierError(f"{method.name}: needs '{key}' ({options.describe(parameter.annotation)})")
            bound = {k: options.checked(method.name, wanted[k], v) for k, v in given.items() if k in wanted}
            for arm in [*([bound["minus"]] if "minus" in bound else []), *(bound.get("arms") or [])]:
                if arm not in self.arms:
                    raise options.unknown("a claim", arm, self.arms, "arm")
            at = self._at(given)
        except MetierError as error:
            raise self.fault(error, "claims", i) from None
        claim = Claim(self.lines["claims", i], str(given.get("says") or ""), method, bound, at)
        return dataclasses.replace(claim, says=claim.says or _sentence(claim))

    def _at(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The part of the grid that a claim, or the picture, is about."""
        at: dict[str, Any] = given.get("at") or {}
        for path, value in at.items():
            if value not in self.grid.get(path, []):
                known = [f"{p}: {v}" for p, values in self.grid.items() for v in values]
                raise options.unknown("the grid", f"{path}: {value}", known, "point")
        return at

    def _chat(self, cells: Sequence[Cell]) -> str | None:
        named = [
            n for cell in cells for c in cell.calls if c.name in self.reports for n in c.arguments.get("chats", ())
        ]
        chat = self.raw.get("chat")
        if chat is not None and chat not in named:
            raise self.fault(options.unknown("the reports", str(chat), set(named), "chat"), "chat")
        if chat is None and len(set(named)) > 1:
            several = ", ".join(dict.fromkeys(named))
            raise self.fault(f"several chats are asked ({several}); 'chat: …' says which stands for the arm", "recipe")
        return chat or next(iter(named), None)

    def _recipe(self, text: str, node: yaml.Node) -> tuple[str, str]:
        """The text of the recipe and what to call it; inline, it keeps the line numbers of the study."""
        given = self.raw["recipe"]
        if isinstance(given, str):
            path = self.path.parent / given
            if not os.path.isfile(path):  # a name too long for a file is none either
                raise self.fault(f"there is no recipe '{given}' beside the study", "recipe")
            return recipe.text_of(path), path.name
        start, end = node.start_mark, node.end_mark
        return "\n" * start.line + " " * start.column + text[start.index : end.index], self.name

    def _seed(self, value: int) -> int:
        return int(
            options.checked(
                f"{self.name}, line {self.lines[('seeds',)]}", Parameter("seeds", Seed, "value", None, True), value
            )
        )

    def _map(self, key: str, kind: type | tuple[type, ...]) -> dict[str, Any]:
        given = {} if self.raw.get(key) is None else self.raw[key]
        if not isinstance(given, dict):
            raise self.fault(f"'{key}' must be a map of {WORDS[key]}, got {given!r}", key)
        for name, value in given.items():
            empty = value is None if kind is dict else value == []
            if not isinstance(name, str) or not (isinstance(value, kind) or empty) or value == []:
                raise self.fault(f"'{key}' must be a map of {WORDS[key]}, got {name!r}: {value!r}", key, name)
        return given

    def _list(self, key: str, kind: type) -> list[Any]:
        given = [] if self.raw.get(key) is None else self.raw[key]
        if not isinstance(given, list) or not all(isinstance(x, kind) and not isinstance(x, bool) for x in given):
            raise self.fault(f"'{key}' must be a list of {WORDS[key]}, got {given!r}", key)
        if kind is not dict and len(set(given)) < len(given):
            raise self.fault(f"'{key}' names something twice: {given!r}", key)
        return given

    def _note(self, node: yaml.Node, place: tuple[Any, ...]) -> None:
        """Remembers the lines of keys and items, three levels deep. Raises MetierError for a key that stands twice."""
        inner = node.value if isinstance(node, yaml.CollectionNode) and place[:1] != ("recipe",) else []
        for i, child in enumerate(inner):
            name, value = (child[0].value, child[1]) if isinstance(child, tuple) else (i, child)
            here, mark = (*place, name), (child[0] if isinstance(child, tuple) else child).start_mark
            if here in self.lines:
                raise MetierError(f"{self.name}, line {mark.line + 1}: '{name}' stands twice")
            self.lines[here] = mark.line + 1
            if len(here) < 3:
                self._note(value, here)

    def fault(self, sentence: object, *place: Any) -> MetierError:
        while place and place not in self.lines:
            place = place[:-1]
        at = f", line {self.lines[place]}" if place else ""
        return MetierError(f"{self.name}{at}: {sentence}")


def _sentence(claim: Claim) -> str:
    """A claim in words, from its options."""
    who = " and ".join(claim.options.get("arms") or ["every other arm"])
    if "minus" not in claim.options:
        return f"{claim.method.name} of {who}"
    return f"{' and '.join(claim.metrics)}: {who} − {claim.options['minus']} {claim.options.get('holds', '')}"
