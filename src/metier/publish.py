"""The specialist's folder: weights that load without metier (but for bottlenecks), the report in three forms.

``facts`` gathers what the run left in its logs into the stable ``report.json``; ``write`` puts the folder in
place as a whole, so a killed run never leaves half of one.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import metier
from metier import report
from metier.artefacts import Model, Report
from metier.disk import MARK, unwritable, write_json
from metier.lm import bottleneck, load, merged
from metier.lm import gguf as gguf_file
from metier.options import MetierError
from metier.store import Store, Work, home, replacing


def write(model: Model, verdict: Report, to: str, *, merge: bool, gguf: bool, work: Work) -> Report:
    """Writes the folder ``to`` and returns the facts as a Report. Raises MetierError when ``to`` is somebody else's."""
    refuse(to)
    folder = Path(os.path.expanduser(to))
    with Store(home()).alone(folder, work.progress), replacing(folder) as temporary:
        made: dict[str, Any] = {}
        dense = model.path
        if model.base is not None and (merge or gguf):
            dense = temporary if merge else work.folder / "dense"
            made["merge"] = merged.write(model, dense)
            shutil.copytree(model.path, temporary / "adapter") if merge else None
        if model.base is None or not merge:
            shutil.copytree(model.path, temporary, dirs_exist_ok=True)
        if gguf:
            made["gguf"] = gguf_file.write(dense, temporary / f"{folder.name}.gguf").name
            shutil.rmtree(work.folder / "dense", ignore_errors=True)
        found = facts(model, verdict, work.above) | made
        write_json(temporary / "report.json", found)
        (temporary / "report.html").write_text(report.html(found), encoding="utf-8")
        (temporary / "README.md").write_text(report.card(found), encoding="utf-8")
        write_json(temporary / MARK, {"metier": metier.__version__, "model": model.digest})
    return Report(found)


def refuse(to: str) -> None:
    """Raises MetierError when ``to`` cannot be written, or holds something that metier did not write."""
    if not to:
        raise MetierError("export: 'to' names no folder; say where with --out")
    folder = Path(os.path.expanduser(to))
    if (reason := unwritable(folder)) is not None:
        raise MetierError(f"export: 'to' is '{to}', and {reason}; choose another place with --out")
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / MARK).exists())):
        raise MetierError(f"export: '{to}' exists and was not written by metier; choose another place with --out")


def facts(model: Model, verdict: Report, above: Sequence[Any]) -> dict[str, Any]:
    """Everything the page tells, from the verdict and from the logs of the finished steps above."""
    start = model.base or model
    name = start.source
    logs = {done.name: done.log() for done in above}
    trained = {done.name: logs[done.name] for done in above if done.use.startswith("train.loop.")}
    numbers = dict(verdict.numbers)
    return {
        "metier": metier.__version__,
        "model": {
            "name": name,
            "digest": model.digest,
            "base_digest": model.base.digest if model.base else None,
            "form": "dense" if model.base is None else "bottlenecks" if bottleneck.lies_in(model.path) else "adapter",
            "hub": load.EMBEDDED[name][2] if name in load.EMBEDDED else None,
            "licence": start.notes.get("licence"),
            "converted_from": start.notes.get("converted_from"),
        },
        **numbers,
        "data": funnel([(done.use, logs[done.name]) for done in above]),
        "cost": {
            "seconds": round(sum(done.seconds for done in above), 1),
            "peak_memory_bytes": max((done.peak_memory_bytes for done in above), default=0),
            "tokens_trained": model.notes.get("tokens_trained", 0),
            "parameters_trained": model.notes.get("parameters_trained", 0),
            "by_step": {done.name: round(done.seconds, 1) for done in above},
        },
        "curves": {name: [r for r in rows if "loss" in r and "step" in r] for name, rows in trained.items()}
        | {"dev": [r for rows in trained.values() for r in rows if "dev_loss" in r]},
        "plan": next((r for rows in logs.values() for r in rows if r.get("event") == "plan"), None),
        "steps": [
            {"name": done.name, "use": done.use, "key": done.key, "seconds": round(done.seconds, 1),
             "cached": done.cached, "options": json.loads(json.dumps(done.options, default=str))}
            for done in above
        ],
        "provenance": provenance(),
    }  # fmt: skip


def funnel(logs: list[tuple[str, list[dict[str, Any]]]]) -> dict[str, Any]:
    """Chunks read = kept + dropped, each drop with its reason; files that could not be read are counted apart."""
    read = next(
        (r for use, rows in logs if use == "data.ingest.documents" for r in rows if r.get("event") == "read"), {}
    )
    passed = [r for _, rows in logs for r in rows if r.get("event") == "kept"]
    divided = next((r for _, rows in logs for r in rows if r.get("event") == "split"), {})
    dropped: Counter[str] = Counter()
    for row in passed:
        dropped.update(row["dropped"])
    return {
        "read": passed[0]["read"] if passed else 0,
        "kept": passed[-1]["kept"] if passed else 0,
        "dropped": dict(dropped),
        "files": {k: v for k, v in read.items() if k != "event"},
        "overlap": divided.get("residual", {}) | {"dealt_at_random": divided.get("naive")},
        "how": divided.get("how"),
        "documents": divided.get("documents"),
        "groups": divided.get("groups"),
        "splits": divided.get("bytes", {}),
        "notes": divided.get("notes", []),
    }


def provenance() -> dict[str, Any]:
    """Versions, machine in words, date; no host name and no path."""
    names = ("torch", "transformers", "peft", "tokenizers", "numpy")
    return {
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in names},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }
