"""From a recipe's name and its --set options to checked steps, and through them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metier import console, preflight, recipe, runner, store
from metier.options import MetierError

if TYPE_CHECKING:
    from metier.calls import Call
    from metier.preflight import Estimate
    from metier.runner import Done

RECIPES = Path(__file__).parent / "recipes"


def execute(path: Path, changes: dict[str, Any], quiet: bool) -> dict[str, Done]:
    """Checks the recipe, says what it will take, and runs it."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    calls = checked(path, changes)
    estimate = preflight.foresee(calls)
    follows = int(os.environ.get("RANK", "0")) > 0  # of the processes of a launcher only the first one speaks
    quiet |= follows
    if not quiet:
        print(preflight.sentence(estimate, store.home()), file=sys.stderr)
    preflight.refuse(estimate, store.home())
    with console.Display(quiet) as display:
        done = runner.run(calls, store.Store(store.home()), display.progress, display.started, display.finished)
    if follows:
        sys.exit()
    return done


def measured(calls: list[Call], quiet: bool) -> Estimate:
    """What the recipe takes, after two steps of every training."""
    from metier import trial  # torch

    with console.Display(quiet) as display:
        return trial.measure(calls, store.Store(store.home()), display.progress)


def checked(path: Path, changes: dict[str, Any]) -> list[Call]:
    """Raises MetierError with file and line."""
    return recipe.check(recipe.parse(recipe.text_of(path), path.name, changes), path.name)


def recipe_file(path: Path) -> Path:
    """A file, or a ready recipe by its name."""
    for candidate in (path, RECIPES / f"{path}.yaml"):
        if candidate.is_file():
            return candidate
    raise MetierError(f"no recipe '{path}'; ready ones: {', '.join(sorted(p.stem for p in RECIPES.glob('*.yaml')))}")


def changes(sets: list[str] | None) -> dict[str, Any]:
    """What ``--set step.option=value`` says."""
    found = {}
    for text in sets or []:
        path, sign, value = text.partition("=")
        if not sign or "." not in path:
            raise MetierError(f"--set must be step.option=value, got {text!r}")
        found[path] = recipe.value(value, f"--set {path}")
    return found
