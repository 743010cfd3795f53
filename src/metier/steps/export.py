"""Writes the folder of a specialist: weights, report.html, report.json, model card.

Options:
    to: the folder; it is replaced as a whole once everything is written.
    merge: fold the adapter into the weights (checked against the unmerged model).
    gguf: also write a GGUF file for llama.cpp and Ollama.
Raises: MetierError when the folder holds something that metier did not write.
"""

from __future__ import annotations

from metier import publish
from metier.artefacts import Model, Report
from metier.options import Place
from metier.store import Work

EXEMPT = dict.fromkeys(
    ("runs_on_the_toy", "the_same_again_gives_the_same", "inputs_stay_as_they_were"),
    "it needs the verdict of a whole adaptation: tests/test_adapt.py runs it",
)
checks = {"run": publish.refuse}


def run(model: Model, verdict: Report, *, to: Place, merge: bool = False, gguf: bool = False, work: Work) -> Report:
    return publish.write(model, verdict, to, merge=merge, gguf=gguf, work=work)
