"""TRL's GRPO trainer with metier's slots: our prompts, seeds, rates, hooks around the step, checkpoints and log."""

from __future__ import annotations

import dataclasses
import math
import random
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import TrainerCallback
from trl import GRPOConfig as GRPOConfig
from trl import GRPOTrainer

from metier.artefacts import Row, Task
from metier.lm import tokens
from metier.lm.chat import Reply
from metier.options import MetierError
from metier.store import Bar
from metier.train import checkpoint
from metier.train.checkpoint import Checkpoint, Tensors
from metier.train.graded import rewards
from metier.train.setup import Clock, Setup, Trainable, derive
from metier.train.state import State, rewind

SILENT = 20  # steps from the first one without a difference between any rewards, and it gives up


@dataclasses.dataclass
class Progress(State):
    """What training has come to; all of it is in every checkpoint."""

    first_reward: float | None = None
    last_reward: float | None = None
    silent_steps: int = 0  # in which every reply to a problem got the same reward


class Rewarded:
    """One training under way: ``steps`` are the problems of each step, by their number among ``problems``."""

    def __init__(
        self, owner: str, task: Task, problems: list[Row], steps: list[list[int]], samples: int, trainable: Trainable,
        setup: Setup,
    ) -> None:  # fmt: skip
        self.owner, self.task, self.problems, self.steps, self.samples = owner, task, problems, steps, samples
        self.trainable, self.setup = trainable, setup
        self.folder = setup.work.folder / "checkpoints"
        self.network: Any = trainable.network.module
        self.weights = {n: p for n, p in self.network.named_parameters() if p.requires_grad}
        self.optimizer: torch.optim.Optimizer = setup.optimizer(trainable.groups)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.state = Progress()
        self.found: Checkpoint | None = None
        self.bar: Bar | None = None
        self.saved = time.monotonic()

    def resume(self) -> None:
        """State and log as of the newest complete checkpoint; the weights follow when TRL has laid hands on them."""
        self.found, skipped = checkpoint.newest(self.folder)
        if self.found is not None:
            self.state = Progress(**{f.name: self.found.state[f.name] for f in dataclasses.fields(Progress)})
        rewind(self.setup.work, self.state, self.found is None)
        for sentence in skipped:
            self.setup.work.note(sentence)

    def restore(self) -> None:
        if self.found is not None:
            with torch.no_grad():
                for name, tensor in self.found.groups["weights"].items():
                    self.weights[name].copy_(tensor)
            checkpoint.restore(self.optimizer, self.found.groups["optimizer"], self.found.state["optimizer"])
            if self.trainable.load:
                self.trainable.load(self.found.groups["method"])

    def begin(self) -> None:
        """Of a step: its randomness and its rate depend on its number alone, so no checkpoint needs them."""
        self.begun, self.loss, self.tokens = time.monotonic(), 0.0, 0
        torch.manual_seed(derive(self.setup.seed, "step", self.state.step, 0))
        self.factor = self.setup.schedule((self.state.step + 1) / (len(self.steps) + 1))
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.factor * group.get("scale", 1.0)

    def reward(self, completions: list[str], completion_ids: list[list[int]], number: list[int], ends: set[int]) -> Any:
        """Of every reply; samples of a problem follow each other."""
        rows = [self.problems[n] for n in number]
        replies = [
            Reply(text, len(ids), None, "stop" if ids and ids[-1] in ends else "length")
            for text, ids in zip(completions, completion_ids, strict=True)
        ]
        self.tokens += sum(map(len, completion_ids))
        found = rewards(self.owner, self.task, rows, replies, least=-math.inf)
        of_one = np.array(found).reshape(-1, self.samples)
        self.mean, self.constant = float(of_one.mean()), float((of_one.max(1) == of_one.min(1)).mean())
        return found

    def clock(self) -> Clock:
        state, passed = self.state, self.state.step * len(self.steps[0])
        return Clock(state.step, len(self.steps), passed // len(self.problems), state.tokens + self.tokens, 1,
                     self.optimizer)  # fmt: skip

    def whole(self) -> None:
        """The gradient of the step is there, and not clipped yet."""
        if self.trainable.edit:
            self.trainable.edit(self.clock())
        gradients = [p.grad for p in self.weights.values() if p.grad is not None]
        self.norm = float(torch.nn.utils.get_total_norm(gradients))
        if not math.isfinite(self.loss) or not math.isfinite(self.norm):
            raise MetierError(f"{self.owner}: diverged at step {self.state.step + 1}: the loss is {self.loss:.3g} at a "
                              f"learning rate of {self.rates[0]:g}; take a smaller one")  # fmt: skip

    def moved(self) -> None:
        if self.trainable.after_step:
            self.trainable.after_step(self.clock())

    def end(self) -> None:
        """The step is done: it is counted, logged, and kept when it is time."""
        state, seconds = self.state, time.monotonic() - self.begun
        state.step, state.tokens, state.seconds = state.step + 1, state.tokens + self.tokens, state.seconds + seconds
        state.first_loss = self.loss if state.first_loss is None else state.first_loss
        state.first_reward = self.mean if state.first_reward is None else state.first_reward
        state.last_loss, state.last_reward = self.loss, self.mean
        state.silent_steps += self.constant == 1
        if state.silent_steps == state.step and state.step in (SILENT, len(self.steps)):
            raise MetierError(f"{self.owner}: in {state.step} steps all replies to a problem got the same reward (at "
                              f"last {self.mean:g} in the mean), so there is nothing to learn")  # fmt: skip
        self.setup.work.log(step=state.step, loss=self.loss, lr=self.rates[0] * self.factor, grad_norm=self.norm,
                            tokens=self.tokens, seconds=round(seconds, 3), reward=self.mean,
                            constant=self.constant)  # fmt: skip
        if time.monotonic() - self.saved >= self.setup.checkpoint_every:
            self.save()
        if self.bar is not None:
            self.bar.advance(1, f"reward {self.mean:.3f}")

    def save(self) -> None:
        tensors, plain = checkpoint.flat(self.optimizer)
        own = self.trainable.state() if self.trainable.state else {}
        groups: dict[str, Tensors] = {"weights": {**self.weights}, "optimizer": tensors, "method": own}
        checkpoint.save(self.folder, Checkpoint(groups, dataclasses.asdict(self.state) | {"optimizer": plain}))
        self.saved = time.monotonic()


class Trainer(GRPOTrainer):
    """TRL's, but that it asks as `evaluate` asks, tells nobody anything, and lets a Rewarded rule the step."""

    def __init__(self, rewarded: Rewarded, **given: Any) -> None:
        self.rewarded = rewarded
        super().__init__(**given)

    def _send_telemetry(self) -> None:
        pass

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        asked = [tokens.prompt(self.processing_class, [{"role": "user", "content": text}]) for text in prompts]
        self.rewarded.tokens += sum(map(len, asked))
        return asked, None, {}

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        if self._step % self.args.gradient_accumulation_steps == 0:
            self.rewarded.begin()
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        self.rewarded.loss += float(loss)
        if self.accelerator.sync_gradients:
            self.rewarded.whole()
        return loss


class Hooks(TrainerCallback):
    """What the trainer tells a Rewarded."""

    def __init__(self, rewarded: Rewarded) -> None:
        self.rewarded = rewarded

    def on_train_begin(self, *given: Any, **more: Any) -> None:
        self.rewarded.restore()

    def on_optimizer_step(self, *given: Any, **more: Any) -> None:
        self.rewarded.moved()

    def on_step_end(self, *given: Any, **more: Any) -> None:
        self.rewarded.end()


def rewarding(rewarded: Rewarded, ends: Sequence[int]) -> Callable[..., Any]:
    """The reward as TRL calls it."""

    def reward(completions: list[str], completion_ids: list[list[int]], number: list[int], **others: Any) -> Any:
        return rewarded.reward(completions, completion_ids, number, set(ends))

    return reward


@contextmanager
def untouched(network: Any, ends: Sequence[int]) -> Iterator[None]:
    """Inside, generation ends where our chats end; afterwards settings and randomness are what they were."""
    config, settings = network.config.get_text_config(), network.generation_config
    held = config.pad_token_id, config.use_cache, settings.pad_token_id, settings.eos_token_id
    drawn = random.getstate(), np.random.get_state()
    settings.eos_token_id = list(ends)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its libraries speak of each other's old names
            yield
    finally:
        config.pad_token_id, config.use_cache, settings.pad_token_id, settings.eos_token_id = held
        random.setstate(drawn[0])
        np.random.set_state(drawn[1])
