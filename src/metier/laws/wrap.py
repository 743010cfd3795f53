"""Laws of wraps: as many answers as were asked for, nothing at OFF, never more access than the chat inside."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from metier.laws.case import ASKED, CONTINUATIONS, PROMPTS, SHORT, Case, answers
from metier.lm import load
from metier.options import ACCESS
from metier.store import Work


def as_many_come_out_as_go_in(case: Case, folder: Path) -> None:
    chat = case.run(folder)
    for n in (1, 2):
        replies = chat.reply(ASKED, dataclasses.replace(SHORT, n=n, temperature=1.0))
        assert len(replies) == n * len(ASKED), f"{len(replies)} replies to {len(ASKED)} × {n}"
    assert len(chat.logprobs(PROMPTS, CONTINUATIONS)) == len(PROMPTS)
    assert chat.reply([], SHORT) == [] and chat.logprobs([], []) == []


def its_company_changes_no_answer(case: Case, folder: Path) -> None:
    chat = case.run(folder)
    together = [r.text for r in chat.reply(ASKED, SHORT)]
    alone = [r.text for one in ASKED for r in chat.reply([one], SHORT)]
    assert together == alone


def off_is_the_bare_chat(case: Case, folder: Path) -> None:
    off = getattr(case.file, "OFF", None)
    assert off is not None, "the file names no OFF, the settings at which it is the bare chat"
    assert answers(case.run(folder, **off)) == answers(load.open(case.bench.model))


def it_gives_no_more_access_than_it_gets(case: Case, folder: Path) -> None:
    chat = case.run(folder)
    least = min((c.access for c in _chats(case, folder)), key=ACCESS.index)
    assert ACCESS.index(chat.access) <= ACCESS.index(least)
    gives = getattr(case.file, "GIVES", None)
    assert gives is None or ACCESS.index(chat.access) <= ACCESS.index(gives), f"{chat.access} against GIVES {gives}"


def another_setting_is_another_digest(case: Case, folder: Path) -> None:
    off = case.run(folder / "off", **case.file.OFF)
    assert case.run(folder / "on").digest != off.digest


def _chats(case: Case, folder: Path) -> list[Any]:
    inputs = case.inputs(Work(folder / "inputs"))
    found = [v for v in inputs.values() if hasattr(v, "reply")]
    return found + [c for v in inputs.values() if isinstance(v, dict) for c in v.values() if hasattr(c, "reply")]
