"""Multiple-choice tasks of the Evaluation Harness, asked like every other measure.

For people with a network who want ARC, HellaSwag, MMLU … beside the general skills that travel with metier: the
harness brings data, prompts and choices; answers, intervals and verdicts are metier's. Needs the extra `eval`, and the
harness downloads its data. Not for tasks that are written or read: those are refused by name.

Options:
    names: tasks, as the harness calls them.
    limit: questions of each, at most.
    include: a folder with more task files of the harness.
Raises: MetierError for an unknown task, one that is not multiple choice, or data that cannot be had.
Differs: the likeliest choice by plain sum (the harness's *acc*), not by length.
"""

from __future__ import annotations

from typing import Any

from lm_eval.tasks import TaskManager

from metier.artefacts import Measure, Records, Row, Task
from metier.options import Count, MetierError, unknown

NEEDS = {"chats": "logits"}
MARGIN = 0.03


def make(*, names: list[str], limit: Count | None = 500, include: str | None = None) -> Task:
    manager = TaskManager(include_path=include)
    rows: list[Row] = []
    measures = {}
    for name in names:
        if name not in manager.all_tasks:
            raise unknown("tasks.lm_eval", name, manager.all_tasks, "task")
        try:
            tasks: dict[str, Any] = manager.load([name])["tasks"]
        except (OSError, ConnectionError) as error:
            raise MetierError(f"tasks.lm_eval: the data of '{name}' cannot be had: {error}") from None
        found = [row for inner, task in tasks.items() for row in _rows(name, inner, task, limit)]
        measures[name] = Measure(
            "choose", "retention", "accuracy", "higher", name, f"The Evaluation Harness's {name}, likeliest choice.",
            margin=MARGIN, chance=sum(1 / len(r["choices"]) for r in found) / len(found),
        )  # fmt: skip
        rows += found
    return Task("lm-eval", "tasks.lm_eval", Records.from_rows(rows), measures, {"names": names})


def _rows(measure: str, name: str, task: Any, limit: int | None) -> list[Row]:
    if task.OUTPUT_TYPE != "multiple_choice":
        raise MetierError(f"tasks.lm_eval: '{name}' is {task.OUTPUT_TYPE}, not multiple choice")
    task.build_all_requests(limit=limit, rank=0, world_size=1)
    asked: dict[int, list[Any]] = {}
    for instance in task.instances:
        asked.setdefault(instance.doc_id, []).append(instance)
    rows = []
    for number, instances in asked.items():
        prompts = {i.arguments[0] for i in instances}
        if len(prompts) > 1:
            raise MetierError(
                f"tasks.lm_eval: '{name}' asks one question with several contexts, which is not supported"
            )
        choices = [i.arguments[1] for i in instances]
        gold = task.doc_to_target(instances[0].doc)
        gold = gold if isinstance(gold, int) else [c.strip() for c in choices].index(str(gold).strip())
        rows.append({"id": f"{name}:{number}", "split": "test", "measure": measure, "cluster": f"{name}:{number}",
                     "prompt": prompts.pop(), "choices": choices, "gold": gold})  # fmt: skip
    return rows
