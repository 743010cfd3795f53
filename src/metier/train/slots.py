"""What fills the slots of a training step: its file, name, options and needs; what does not go together."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from metier.options import Bound, MetierError
from metier.train.examples import Wanted

if TYPE_CHECKING:
    from metier.train.setup import Setup

SLOTS = {"parameters": "prepare", "objective": "loss", "terms": "term", "optimizer": "optimizer", "schedule": "rate"}
FUSED: dict[str, Any] = {"max_grad_norm": 0, "gradient_accumulation": 1, "edit": "none", "processes": 1}


def function_of(slot: Callable[..., Any]) -> Callable[..., Any]:
    return slot.function if isinstance(slot, Bound) else slot.func if isinstance(slot, functools.partial) else slot


def options_of(slot: Callable[..., Any]) -> dict[str, Any]:
    if isinstance(slot, Bound):
        return dict(slot.values)
    return dict(slot.keywords) if isinstance(slot, functools.partial) else {}


def module_of(slot: Callable[..., Any]) -> ModuleType:
    found = inspect.getmodule(function_of(slot))
    assert found is not None
    return found


def name_of(slot: Callable[..., Any]) -> str:
    return slot.name if isinstance(slot, Bound) else module_of(slot).__name__.removeprefix("metier.")


def takes(slot: Callable[..., Any], name: str) -> bool:
    return name in inspect.signature(function_of(slot)).parameters


def with_option(slot: Callable[..., Any], **values: Any) -> Callable[..., Any]:
    """The method with some of its options set anew."""
    return functools.partial(function_of(slot), **(options_of(slot) | values))


def wanted(objective: Callable[..., Any]) -> Wanted:
    """What an objective's file asks of the rows: FIELDS, and ``supervise(roles, …)``, which gets its options."""
    module = module_of(objective)
    supervise = getattr(module, "supervise", None)
    if supervise is not None:
        supervise = functools.partial(
            supervise, **{k: v for k, v in options_of(objective).items() if takes(supervise, k)}
        )
    return Wanted(getattr(module, "FIELDS", {}), supervise)


def fuses(setup: Setup) -> bool:
    """Whether the optimizer owns the backward pass and updates inside it."""
    return hasattr(module_of(setup.optimizer), "backward")


def methods_of(setup: Setup, slots: Sequence[str] = tuple(SLOTS)) -> list[Callable[..., Any]]:
    return [m for slot in slots for m in (setup.terms if slot == "terms" else [getattr(setup, slot)])]


def needs_of(slot: Callable[..., Any]) -> dict[str, Any]:
    """NEEDS of the method's file, or its ``needs(options)``; FUSED as well where it moves weights inside backward."""
    module = module_of(slot)
    found = module.needs(options_of(slot)) if hasattr(module, "needs") else getattr(module, "NEEDS", {})
    return (FUSED if hasattr(module, "backward") else {}) | found


def refuse(setup: Setup, owner: str, honoured: Sequence[str] = tuple(SLOTS), processes: int = 1) -> None:
    """Checks before the first minute of work that the slots go together.

    A slot the loop would ignore is refused, and so is a setting against a method's NEEDS (or ``needs(options)``):
    ``max_grad_norm``, ``gradient_accumulation``, ``processes`` (a number each), ``gradient`` (*whole*), ``update``
    (*step*: no optimizer that updates inside backward), ``edit`` (*none*), ``dev`` (*given*), ``head`` (*text*: a model
    that writes, no classifier), or the name another slot must hold.
    Raises MetierError naming the method.
    """
    how_long = [n for n in ("epochs", "steps", "tokens") if getattr(setup, n) is not None]
    if len(how_long) != 1:
        got = " and ".join(how_long) or "none"
        raise MetierError(f"{owner}: give exactly one of 'epochs', 'steps', 'tokens', got {got}")
    defaults = {f.name: f.default for f in dataclasses.fields(setup)}
    for slot in (s for s in SLOTS if s not in honoured):
        given = getattr(setup, slot)
        if given and (slot == "terms" or name_of(given).rpartition(".")[2] != defaults[slot]):
            raise MetierError(f"{owner}: has no use for '{slot}'")
    for used in methods_of(setup, honoured):
        name = name_of(used)
        for key, wanted in needs_of(used).items():
            if key == "max_grad_norm" and setup.max_grad_norm != wanted:
                raise MetierError(f"{name}: needs max_grad_norm {wanted}, got {setup.max_grad_norm}")
            if key == "processes" and processes != wanted:
                raise MetierError(f"{name}: runs in {wanted} process, got {processes}")
            if key in ("update", "gradient") and wanted in ("step", "whole") and fuses(setup):
                raise MetierError(f"{name}: needs whole gradients, which {name_of(setup.optimizer)} never holds")
            if key == "head" and wanted == "text" and owner == "train.loop.head":
                raise MetierError(f"{name}: needs a model that writes, and {owner} makes a classifier")
            if key == "dev" and setup.dev is None:
                raise MetierError(f"{name}: needs 'dev', the records whose loss is watched")
            if key in SLOTS and name_of(getattr(setup, key)).rpartition(".")[2] != wanted:
                raise MetierError(f"{name}: needs {key} '{wanted}', got {name_of(getattr(setup, key))}")


def suit(setup: Setup, owner: str, replies: int, speakers: bool = True) -> None:
    """Checks that objective and terms compare as many replies a record as the loop reads, and that no objective chooses
    whose words are learnt where a loop does not know of whose. Raises MetierError.
    """
    if not speakers and wanted(setup.objective).supervise:
        words = "chooses whose words are learnt, which is not known of what"
        raise MetierError(f"{name_of(setup.objective)}: {words} {owner} reads")
    for used in methods_of(setup, ("objective", "terms")):
        if not speakers and needs_of(used).get("turns") == "read":
            raise MetierError(f"{name_of(used)}: learns replies of conversations, which {owner} does not read")
        asked = needs_of(used).get("replies", 1)
        if asked != replies:
            learns = "learns from one reply a record" if asked == 1 else f"compares {asked} replies of a record"
            raise MetierError(f"{name_of(used)}: {learns}; {owner} reads {replies}")
