"""Asks the expert whose examples are nearest to the question, by meaning.

For several specialists behind one door, without training a router. `route.nearest.fit` embeds examples of every expert
(documents, questions, prompts) once; a question goes to the expert with the highest mean cosine of its nearest
examples. Where nothing is near, a *default* answers, which may be a chat without examples, such as the base model.
A reply's trace names the `expert` and how near it is. Texts are routed by their prompt; one without a prompt goes to
the default. A single chat is returned as it is.

    nearness(expert) = mean of the `neighbours` highest cosines between question and its examples

Options:
    neighbours: examples of an expert that count; a large number takes its centre.
    least: nearness under which the default answers.
    default: the chat that answers then.
    most: examples of an expert that are kept; drawn evenly where there are more.
    seed: of the draw.
Raises: MetierError when an expert has no examples or no chat, or a text names no expert and there is no default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
from pydantic import Field
from safetensors.numpy import load_file, save_file

from metier.artefacts import Part, Records, Row
from metier.disk import files_digest
from metier.lm import embed
from metier.lm.chat import Access, Chat
from metier.options import Count, MetierError, Seed
from metier.route._experts import Experts, Pick, spoken
from metier.store import Work

GIVES: Access = "logits"
OFF = {"least": 1.0, "default": "base"}
NAME = "route.nearest"
Cosine = Annotated[float, Field(ge=-1, le=1)]


def wrap(
    chats: dict[str, Chat], part: Part, *, neighbours: Count = 8, least: Cosine = -1.0, default: str | None = None
) -> Chat:
    if len(chats) == 1:
        return next(iter(chats.values()))
    vectors = load_file(part.path / "examples.safetensors")
    for name in vectors:
        if name not in chats:
            raise MetierError(f"{NAME}: there are examples for '{name}' and no chat of that name")
    for name in chats:
        if name not in vectors and name != default:
            raise MetierError(f"{NAME}: '{name}' has no examples and is not the default")
    if default is not None and default not in chats:
        raise MetierError(f"{NAME}: there is no chat '{default}' to be the default")
    if least > -1 and default is None:
        raise MetierError(f"{NAME}: 'least' needs a 'default', the chat that answers what is not near to any")
    return Nearest(chats, part, vectors, neighbours, least, default)


def fit(data: dict[str, Records], *, most: Count = 1000, seed: Seed = 0, work: Work) -> Part:
    """Vectors of every expert's examples: what the user says in messages, or a prompt, or a text."""
    examples = {name: _drawn(records, most, seed) for name, records in sorted(data.items())}
    for name, texts in examples.items():
        if not texts:
            raise MetierError(f"{NAME}: the examples of '{name}' have no text")
    with work.progress("embedding", sum(map(len, examples.values()))) as bar:
        vectors = {name: embed.encode(texts, advance=bar.advance) for name, texts in examples.items()}
    folder = work.folder / "part"
    folder.mkdir(exist_ok=True)
    save_file(vectors, folder / "examples.safetensors")
    notes = {"examples": {name: len(texts) for name, texts in examples.items()}, "encoder": embed.HUB}
    return Part(folder, f"{NAME}.fit", files_digest(folder), notes)


class Nearest(Experts):
    """A Chat that asks whoever knows most about it."""

    GIVES = GIVES

    def __init__(
        self, chats: Mapping[str, Chat], part: Part, vectors: Mapping[str, np.ndarray], neighbours: int, least: float,
        default: str | None,
    ) -> None:  # fmt: skip
        super().__init__(chats, part.digest, neighbours, least, default)
        self.vectors, self.neighbours, self.least, self.default = vectors, neighbours, least, default

    def pick(self, questions: Sequence[str]) -> list[Pick]:
        told = [i for i, question in enumerate(questions) if question.strip()]
        if len(told) < len(questions) and self.default is None:
            raise MetierError(f"{NAME}: a text without a prompt names no expert; set 'default' to the chat for it")
        asked = embed.encode([questions[i] for i in told])  # [question, dim]
        names = sorted(self.vectors)
        found = [Pick(self.default or "")] * len(questions)
        near = np.stack([nearness(self.vectors[name], asked, self.neighbours) for name in names], 1)
        for i, row in zip(told, near, strict=True):
            best = int(row.argmax())
            if row[best] >= self.least:
                found[i] = Pick(names[best], {"near": round(float(row[best]), 4)})
            else:
                found[i] = Pick(str(self.default), {"near": round(float(row[best]), 4)})
        return found


def nearness(examples: np.ndarray, questions: np.ndarray, neighbours: int) -> np.ndarray:
    """Mean of the highest cosines between each question [question, dim] and the examples [example, dim]."""
    cosines = questions @ examples.T  # [question, example]
    highest: np.ndarray = -np.partition(-cosines, min(neighbours, len(examples)) - 1, axis=1)[:, :neighbours]
    return highest.mean(1, dtype=np.float64)


def _drawn(records: Records, most: int, seed: int) -> list[str]:
    texts = [text for row in records if (text := _said(row)).strip()]
    if len(texts) <= most:
        return texts
    return [texts[i] for i in sorted(np.random.default_rng(seed).permutation(len(texts))[:most])]


def _said(row: Row) -> str:
    prompt = row.get("prompt")
    turns = row.get("messages") or (prompt if isinstance(prompt, list) else None)
    return spoken(turns) if turns else prompt or row.get("text") or ""
