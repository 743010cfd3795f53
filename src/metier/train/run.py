"""One training under way: what is loaded, what a step does, what is saved."""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor

from metier.artefacts import Model, Records
from metier.lm import load, size
from metier.lm import loss as lm_loss
from metier.options import MetierError
from metier.train import checkpoint
from metier.train.added import StepLoss, begun, remembering
from metier.train.batches import plan, spread
from metier.train.checkpoint import Checkpoint
from metier.train.examples import PLAIN, Read
from metier.train.feed import Feed
from metier.train.setup import Clock, Network, Opened, Setup, derive
from metier.train.slots import (
    SLOTS,
    fuses,
    methods_of,
    module_of,
    name_of,
    needs_of,
    refuse,
    suit,
    takes,
    wanted,
)
from metier.train.state import State, accelerator, peak_memory, precision, rewind

DIVERGED = 3.0  # times the first loss …
STEPS_HIGH = 5  # … for so many steps in a row


class Run:
    """One training under way: network, data, plan of steps, optimizer, memory and State."""

    def __init__(
        self, model: Model, data: Records, setup: Setup, read: Read, owner: str, slots: Sequence[str] = tuple(SLOTS),
        opened: Opened = load.network,
    ) -> None:  # fmt: skip
        self.setup, self.owner = setup, owner
        self.folder = setup.work.folder / "checkpoints"
        self.accelerator = accelerator()
        refuse(setup, owner, slots, self.accelerator.num_processes)
        torch.manual_seed(derive(setup.seed, "prepare"))
        module, tokenizer = opened(model)
        network = Network(module, tokenizer, model)
        self.trainable = setup.prepared(network, data, owner)
        self.network = self.trainable.network.module
        tokenizer = self.trainable.network.tokenizer
        self.examples = read(tokenizer, data, setup.length, wanted(setup.objective))
        suit(setup, owner, self.examples.replies)
        self.plan = plan(
            self.examples.lengths, seed=setup.seed, order=setup.order, batch=setup.batch, step_tokens=setup.step_tokens,
            epochs=setup.epochs, steps=setup.steps, total_tokens=setup.tokens,
        )  # fmt: skip
        at_once = setup.micro_tokens or size.at_once(self.network, self.accelerator.device)
        self.feed = Feed(self.examples, setup, at_once, self.accelerator)
        self.dev = None
        if setup.dev is not None:
            its = wanted(setup.objective) if self.examples.replies > 1 else PLAIN
            self.dev = Feed(read(tokenizer, setup.dev, setup.length, its), setup, at_once, self.accelerator)
            self.looked = spread(self.dev.examples.lengths, setup.dev_tokens)
        self._check_accumulation()
        self.module = self.accelerator.prepare(StepLoss(self.network, setup, self.trainable.penalty))
        # Only now: prepare may have moved the parameters to a device.
        self.optimizer = setup.optimizer(self.trainable.groups)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        first = self.examples.tokens[self.examples.offsets[0] : self.examples.offsets[1]][:8]
        lm_loss.check_head(self.network, torch.tensor(first[None].astype(np.int64), device=self.accelerator.device))
        self.weights = {n: p for n, p in self.network.named_parameters() if p.requires_grad}
        self.begin()

    def begin(self) -> None:
        """Counters, optimizer state and the memory of objective and terms as at step 0; weights stay as they are."""
        self.state = State()
        self.optimizer.state.clear()
        slots, tokenizer = remembering(self.setup), self.trainable.network.tokenizer
        with precision(self.accelerator.device.type, self.setup.precision):  # a reference is read as it is compared
            self.memory = {
                place: begun(slot, self.network, self.feed.stream(self.plan), tokenizer)
                for place, slot in slots.items()
            }
            self.dev_memory: tuple[dict[str, Any], ...] = ()
            if self.dev is not None and self.dev.examples.replies > 1 and "objective" in slots:
                stream = self.dev.stream([self.looked])
                self.dev_memory = (begun(slots["objective"], self.network, stream, tokenizer),)

    def step(self) -> dict[str, Any]:
        """One optimizer step; returns its log row. Raises MetierError when the loss diverges."""
        started = time.monotonic()
        setup, state, optimizer, trainable = self.setup, self.state, self.optimizer, self.trainable
        window = self.plan[state.step]
        batches = self.feed.cut(window)
        clock = Clock(state.step, len(self.plan), window.epoch, state.tokens + window.tokens, len(batches), optimizer)
        torch.manual_seed(derive(setup.seed, "step", state.step, self.accelerator.process_index))
        # Neither end of the schedule is wasted on a step that does not move.
        looks = (state.looks,) if takes(setup.schedule, "looks") else ()
        factor = setup.schedule((state.step + 1) / (len(self.plan) + 1), *looks)
        for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor * group.get("scale", 1.0)
        optimizer.zero_grad(set_to_none=True)
        self.module.train()
        total = torch.zeros((), device=self.accelerator.device)
        seen: list[tuple[list[str], dict[str, Tensor]]] = []
        for i, rows in enumerate(batches):
            batch = self.feed.batch(rows, window, state.step / len(self.plan))
            batch = trainable.before_batch(batch) if trainable.before_batch else batch
            with nullcontext() if i == len(batches) - 1 else self.accelerator.no_sync(self.module):
                with precision(self.accelerator.device.type, self.setup.precision):
                    loss = self.module(batch, self.memory)
                self._backward(loss * self.accelerator.num_processes)
            total += loss.detach()
            seen.append((batch.ids, {k: v.detach().cpu() for k, v in batch.seen.items()}))
        loss_value = float(self.accelerator.reduce(total, "sum"))
        if trainable.edit:
            trainable.edit(clock)
        norm = self._clip()
        self._watch(loss_value, norm)
        optimizer.step()
        if trainable.after_step:
            trainable.after_step(clock)
        changing = self._changing()
        noted = self.feed.in_order(seen, window) if changing else {}
        for place, remember in changing.items():
            self.memory[place] = remember(self.memory[place], noted)
        seconds = time.monotonic() - started
        state.step, state.tokens, state.seconds = state.step + 1, state.tokens + window.tokens, state.seconds + seconds
        state.last_loss = loss_value
        return {"step": state.step, "loss": loss_value, "lr": self.rates[0] * factor, "grad_norm": norm,
                "tokens": window.tokens, "seconds": round(seconds, 3)}  # fmt: skip

    @torch.no_grad()
    def dev_loss(self) -> float:
        """Mean cross entropy of the supervised tokens of the dev records, in nats, whatever the objective is.

        Of preferences it is the objective itself: the worse replies are not to become likelier.
        """
        assert self.dev is not None
        self.module.eval()
        examples, looked = self.dev.examples, self.looked
        total = torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        for rows in self.dev.cut(looked):
            batch = self.dev.batch(rows, looked)
            with precision(self.accelerator.device.type, self.setup.precision):
                if examples.replies > 1:
                    value = self.setup.objective(self.network, batch, *self.dev_memory)
                else:
                    picked = lm_loss.supervised(self.network, batch.input_ids, batch.labels, batch.position_ids)
                    value = picked.per_token().double().sum()
                total += value
        return float(self.accelerator.reduce(total, "sum")) / (
            1 if examples.replies > 1 else int(examples.targets[looked.rows].sum())
        )

    def look(self) -> bool:
        """Measures the dev loss, logs it, and says whether it is the best so far."""
        state, loss = self.state, self.dev_loss()
        self.log(step=state.step, dev_loss=loss)
        state.evaluated = state.step
        state.looks.append([state.step / len(self.plan), loss])
        state.first_dev = loss if state.first_dev is None else state.first_dev
        better = state.best_dev is None or loss < state.best_dev
        if better:
            state.best_dev, state.best_step, state.looks_without_gain = loss, state.step, 0
        else:
            state.looks_without_gain += 1
        return better

    def log(self, **row: Any) -> None:
        if self.accelerator.is_main_process:
            self.setup.work.log(**row)

    def save(self) -> None:
        if not self.accelerator.is_main_process:
            return
        tensors, plain = checkpoint.flat(self.optimizer)
        memory = {
            f"{place}.{name}": t
            for place in self._changing()
            for name, t in self.memory[place].items()
            if isinstance(t, Tensor)
        }
        own = self.trainable.state() if self.trainable.state else {}
        groups = {"weights": dict[str, Tensor](self.weights), "optimizer": tensors, "memory": memory, "method": own}
        facts = dataclasses.asdict(self.state) | {"optimizer": plain}
        checkpoint.save(self.folder, Checkpoint(groups, facts), self.state.best_step)

    def take(self, found: Checkpoint) -> None:
        """Puts weights, optimizer, memory and the method's own state back; State is left to the caller."""
        with torch.no_grad():
            for name, tensor in found.groups["weights"].items():
                self.weights[name].copy_(tensor)
        checkpoint.restore(self.optimizer, found.groups["optimizer"], found.state["optimizer"])
        for key, tensor in found.groups["memory"].items():
            place, _, name = key.partition(".")
            self.memory[place][name] = tensor.to(self.accelerator.device)
        if self.trainable.load:
            self.trainable.load(found.groups["method"])

    def resume(self) -> None:
        """From the newest complete checkpoint, if there is one; the log is cut back to it."""
        with self.accelerator.main_process_first():  # torn ones are removed on the way
            found, skipped = checkpoint.newest(self.folder)
        if found is not None:
            self.take(found)
            self.state = State(**{f.name: found.state[f.name] for f in dataclasses.fields(State)})
        if self.accelerator.is_main_process:
            rewind(self.setup.work, self.state, found is None)
        if found is None:
            self.log(kept=len(self.examples), dropped=self.examples.dropped, steps=len(self.plan))
        for sentence in skipped if self.accelerator.is_main_process else ():
            self.setup.work.note(sentence)

    def finish(self) -> Model:
        """What ``parameters`` makes of the weights, written by one process and known to all."""
        made = [self._finish() if self.accelerator.is_main_process else None]
        return cast(Model, broadcast_object_list(made)[0])

    def _finish(self) -> Model:
        setup, state = self.setup, self.state
        folder = setup.work.folder / "model"
        shutil.rmtree(folder, ignore_errors=True)
        self.optimizer.zero_grad(set_to_none=True)
        self.module.eval()
        made = cast(Model, self.trainable.finish(folder))
        history: dict[str, Any] = {
            "method": self.owner,
            "steps": state.step,
            "tokens_trained": state.tokens,
            "parameters_trained": sum(p.numel() for p in self.weights.values()),
            "seconds": round(state.seconds, 3),
            "peak_memory_bytes": peak_memory(),
            "processes": self.accelerator.num_processes,
            "loss": {"first": state.first_loss, "last": state.last_loss},
        }
        if self.dev is not None:
            history["dev"] = {"first": state.first_dev, "best": state.best_dev, "best_step": state.best_step}
        return dataclasses.replace(made, notes=made.notes | history)

    def _changing(self) -> dict[str, Callable[..., dict[str, Tensor]]]:
        """The memories that change, with what changes them; the others are made anew from the Model on resume."""
        slots = remembering(self.setup)
        return {p: module_of(s).remember for p, s in slots.items() if hasattr(module_of(s), "remember")}

    def _backward(self, loss: Tensor) -> None:
        if fuses(self.setup):
            module_of(self.setup.optimizer).backward(self.optimizer, loss)
        else:
            self.accelerator.backward(loss)

    def _clip(self) -> float:
        """Shortens the gradient and returns its length before; 0 when the optimizer leaves none behind."""
        gradients = [p.grad for p in self.weights.values() if p.grad is not None]
        if not gradients:
            return 0.0
        if self.setup.max_grad_norm > 0:
            return float(self.accelerator.clip_grad_norm_(self.weights.values(), self.setup.max_grad_norm))
        return float(torch.nn.utils.get_total_norm(gradients))

    def _watch(self, loss: float, norm: float) -> None:
        state = self.state
        if state.first_loss is None:
            state.first_loss = loss
        # A small first loss would make ordinary noise look like divergence: one nat is always allowed.
        high = loss > max(DIVERGED * state.first_loss, state.first_loss + 1) and state.first_loss > 0
        state.steps_high = state.steps_high + 1 if high else 0
        if not math.isfinite(loss) or not math.isfinite(norm) or state.steps_high >= STEPS_HIGH:
            kept = sorted(p.name for p in self.folder.glob("step-*"))
            where = f"the last good checkpoint is {kept[-1]}" if kept else "no checkpoint had been written yet"
            raise MetierError(
                f"{self.owner}: diverged at step {state.step + 1}: the loss went from {state.first_loss:.3g} to "
                f"{loss:.3g} at a learning rate of {self.rates[0]:g}; take a smaller one ({where})"
            )

    def _check_accumulation(self) -> None:
        for slot in methods_of(self.setup):
            most = needs_of(slot).get("gradient_accumulation")
            if most and any(len(self.feed.cut(window)) > most for window in self.plan):
                words = f"takes a whole step in {most} micro-batch; raise 'micro_tokens' or lower 'batch'"
                raise MetierError(f"{name_of(slot)}: {words}")
            # A hook that edits gradients would find none.
            if needs_of(slot).get("edit") == "none" and self.trainable.edit:
                editor = name_of(self.setup.parameters)
                raise MetierError(f"{name_of(slot)}: leaves no gradient that {editor} could edit")
