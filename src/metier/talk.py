"""A conversation on the terminal with one model, or with two side by side."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from metier.artefacts import Model
from metier.lm import load
from metier.lm.chat import Sampling
from metier.options import MetierError
from metier.store import Work, home

INTERRUPTED = 130


def loop(names: Sequence[str], max_tokens: int) -> None:
    """Reads questions until an empty line, end of input, or Ctrl-C; each model keeps its own conversation.

    Raises MetierError when a model cannot be loaded.
    """
    try:
        _converse(names, max_tokens)
    except KeyboardInterrupt:  # nothing goes on from here: a conversation is not kept
        print("\nmetier: the conversation has ended", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _converse(names: Sequence[str], max_tokens: int) -> None:
    if sys.stdin is None:
        raise MetierError("chat: standard input is closed, so nothing can be asked")
    console = Console(highlight=False)
    chats = {name: load.open(_model(name)) for name in names}
    spoken: dict[str, list[dict[str, str]]] = {name: [] for name in names}
    prompt = "\n> " if sys.stdin.isatty() else ""
    while True:
        try:
            question = input(prompt).strip()
        except EOFError:
            return
        if not question:
            return
        answers = {}
        for name, chat in chats.items():
            spoken[name].append({"role": "user", "content": question})
            [reply] = chat.reply([spoken[name]], Sampling(max_tokens))
            spoken[name].append({"role": "assistant", "content": reply.text})
            answers[name] = reply.text.strip()
        if len(names) == 1:
            console.print(Text(answers[names[0]]))
        else:
            width = console.width // 2 - 1 if console.width > 60 else console.width
            console.print(Columns([Panel(Text(a), title=n, width=width) for n, a in answers.items()]))


def _model(name: str) -> Model:
    return load.resolve(name, Work(home() / "models"))
