"""Reinforcement learning from rewards that can be checked (GRPO, over TRL).

For tasks whose replies a rule can grade, when a model is right some of the time: it samples several replies to each
problem and learns from how their rewards differ. It needs no solutions, costs far more than training on them (nearly
all of it sampling), and teaches nothing where all samples of a problem get the same reward. `rest_em` is the plainer
way where grades are right or wrong and a few rounds will do. What the grade overlooks is exploited: read the replies.
Its gradient is mostly noise, of which Adam makes whole steps: take a tenth of the rate you would train solutions with.

    A_i = (r_i − mean r) / (std r + 1e-4)      over the samples i of a problem
    L   = −Σ_i A_i · Σ_t π(y_it) / sg π(y_it)  /  Σ_i |y_i|       over the step; sg: taken as a constant

The problems are the rows of the split *train* of the task; the first number of its grade is the reward. A step samples
`batch` problems and makes one update; `epochs` and `steps` say how many. Every step's log row tells the mean reward and
the share of problems whose samples all got the same. Killed, it goes on from its last checkpoint with the same end.

Paper: 119 (GRPO: Shao et al., DeepSeekMath, 2024), over TRL's trainer
Options:
    samples: replies drawn for each problem.
    temperature: of the samples.
    top_p: share of the probability that samples are drawn from.
    max_tokens: length of a reply, at most.
Raises: MetierError for a slot it cannot honour (an objective, terms, `dev`, lengths in tokens, methods that change
    batches or add a penalty, optimizers that never hold a whole gradient, several processes), a task without the split
    *train*, a reward that is no finite number, rewards that never differ, or a loss that diverges.
Differs: one update a sampling, so the ratio of new to old probability is 1 and its clipping has nothing to cut. No KL
    term: `lora` and a small rate keep the model near its start. The loss is over tokens of the step (DAPO's mean), so
    that cutting it into micro-batches changes nothing. Dropout is also active while it samples.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from typing import Annotated, Any, cast

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel, PromptLearningConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from pydantic import Field
from transformers import PreTrainedTokenizerBase, PrinterCallback

from metier.artefacts import Model, Row, Task
from metier.lm import load, size, tokens
from metier.options import Count, MetierError, Positive
from metier.train import fit
from metier.train.graded import problems
from metier.train.loop._rewarded import GRPOConfig, Hooks, Rewarded, Trainer, rewarding, untouched
from metier.train.setup import Network, Setup, Trainable, derive
from metier.train.slots import fuses, name_of, refuse
from metier.train.state import accelerator, peak_memory

SLOTS = ("parameters", "optimizer", "schedule")
NAME = "train.loop.reinforce"
EXAMPLE = {"data": "$problems", "samples": 8, "max_tokens": 24, "length": 128}
Several = Annotated[int, Field(ge=2)]
TopP = Annotated[float, Field(gt=0, le=1)]


def train(
    model: Model, data: Task, setup: Setup, *, samples: Several = 8, temperature: Positive = 1.0, top_p: TopP = 1.0,
    max_tokens: Count = 256,
) -> Model:  # fmt: skip
    """The model after the last step; its notes tell rewards and losses."""
    _refuse(model, setup)
    with fit.own_randomness():
        torch.manual_seed(derive(setup.seed, "prepare"))
        module, tokenizer = load.network(model)
        network = Network(module, tokenizer, model)
        asked = _short(problems(NAME, data, "train"), tokenizer, setup)
        trainable = setup.prepared(network, data.part("train"), NAME)
        _suit(trainable, setup)
        run = Rewarded(NAME, data, asked, _plan(len(asked), setup), samples, trainable, setup)
        run.resume()
        if run.found is None:
            setup.work.log(kept=len(asked), dropped={}, steps=len(run.steps))
        if left := run.steps[run.state.step :]:
            _train(run, left, temperature, top_p, max_tokens)
        else:
            run.restore()
        return _finish(run)


def _train(run: Rewarded, left: list[list[int]], temperature: float, top_p: float, max_tokens: int) -> None:
    setup, tokenizer, device = run.setup, run.trainable.network.tokenizer, accelerator().device
    ends = tokens.end_of_turn(tokenizer)
    rows, at_once = [n for step in left for n in step], setup.micro_tokens or size.at_once(run.network, device)
    longest = max(len(_prompt(tokenizer, row)) for row in run.problems) + max_tokens
    whole = len(left[0]) * run.samples
    micro = max(n for n in range(1, whole + 1) if whole % n == 0 and (n == 1 or n * longest <= at_once))
    able = device.type == "cuda" and torch.cuda.is_bf16_supported()
    wide = setup.precision == "bf16" or (setup.precision == "auto" and able)
    still = torch.optim.lr_scheduler.LambdaLR(run.optimizer, lambda step: 1.0)  # `begin` sets the rate
    with untouched(run.network, ends), load.quiet(), setup.work.progress("training", len(run.steps)) as bar:
        bar.advance(run.state.step)
        run.bar = bar
        arguments = GRPOConfig(
            output_dir=str(run.folder), max_steps=len(left), per_device_train_batch_size=micro,
            gradient_accumulation_steps=whole // micro, num_generations=run.samples, max_completion_length=max_tokens,
            temperature=temperature, top_p=top_p, top_k=0, shuffle_dataset=False, beta=0.0, loss_type="dapo",
            max_grad_norm=setup.max_grad_norm, bf16=wide, gradient_checkpointing=False, use_cpu=device.type == "cpu",
            save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = Trainer(
            run, model=run.network, reward_funcs=[rewarding(run, ends)], args=arguments, processing_class=tokenizer,
            train_dataset=Dataset.from_dict({"prompt": [run.problems[n]["prompt"] for n in rows], "number": rows}),
            callbacks=[Hooks(run)], optimizers=(run.optimizer, still),
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def _plan(count: int, setup: Setup) -> list[list[int]]:
    """The problems of each step: pass after pass over all of them, cut into steps of one size."""
    batch = min(setup.batch or 16, count)
    steps = setup.steps or math.ceil((setup.epochs or 0) * count / batch)
    shuffled = setup.order == "buckets"
    stream: list[int] = []
    for epoch in range(math.ceil(steps * batch / count)):
        order = np.random.default_rng([setup.seed, epoch]).permutation(count) if shuffled else np.arange(count)
        stream += order.tolist()
    return [stream[at : at + batch] for at in range(0, steps * batch, batch)]


def _prompt(tokenizer: PreTrainedTokenizerBase, row: Row) -> list[int]:
    return tokens.prompt(tokenizer, [{"role": "user", "content": row["prompt"]}])


def _short(rows: list[Row], tokenizer: PreTrainedTokenizerBase, setup: Setup) -> list[Row]:
    for row in rows:
        if (found := len(_prompt(tokenizer, row))) > setup.length:
            told = f"has {found} tokens, more than 'length', {setup.length}"
            raise MetierError(f"{NAME}: the prompt of {row['id']!r} {told}")
    return rows


def _refuse(model: Model, setup: Setup) -> None:
    refuse(setup, NAME, SLOTS)
    if model.head != "text":
        raise MetierError(f"{NAME}: needs a model that writes, got one with the head '{model.head}'")
    for name in ("dev", "tokens", "step_tokens"):
        if getattr(setup, name) is not None:
            raise MetierError(f"{NAME}: has no use for '{name}'")
    if fuses(setup):
        raise MetierError(f"{NAME}: needs whole gradients, which {name_of(setup.optimizer)} never holds")
    if (processes := accelerator().num_processes) > 1:
        raise MetierError(f"{NAME}: runs in 1 process, got {processes}")


def _suit(trainable: Trainable, setup: Setup) -> None:
    module: Any = trainable.network.module
    if trainable.before_batch or trainable.penalty:
        raise MetierError(f"{NAME}: cannot honour {name_of(setup.parameters)}, which changes batches or the loss")
    if isinstance(module, PeftModel) and (
        isinstance(module.active_peft_config, PromptLearningConfig)
        or isinstance(module.get_output_embeddings(), BaseTunerLayer)
    ):
        raise MetierError(f"{NAME}: takes no adapter of the output head or of words in front of the text")


def _finish(run: Rewarded) -> Model:
    state, folder = run.state, run.setup.work.folder / "model"
    shutil.rmtree(folder, ignore_errors=True)
    run.network.eval()
    made = cast(Model, run.trainable.finish(folder))
    if state.silent_steps:
        told = f"{state.silent_steps} of {state.step} steps"
        run.setup.work.note(f"in {told} every reply to a problem got the same reward, so that they taught nothing")
    history: dict[str, Any] = {
        "method": NAME, "steps": state.step, "tokens_trained": state.tokens,
        "parameters_trained": sum(p.numel() for p in run.weights.values()), "seconds": round(state.seconds, 3),
        "peak_memory_bytes": peak_memory(), "processes": 1, "silent_steps": state.silent_steps,
        "loss": {"first": state.first_loss, "last": state.last_loss},
        "reward": {"first": state.first_reward, "last": state.last_reward},
    }  # fmt: skip
    return dataclasses.replace(made, notes=made.notes | history)
