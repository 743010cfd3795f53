"""What a changed file re-runs, two runs at once, a full disk, Ctrl-C, an odd terminal: with the real command."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from command import as_a_user, told
from endpoint_server import Fault, Server
from metier.options import MetierError
from metier.store import replacing
from metier.worlds import facts
from metier.worlds.writer import Scripted

RECIPE = """
texts: {use: data.ingest.documents, source: [DOCS]}
long: {use: data.select.mine, data: $texts}
best: {use: keep, data: $texts, scores: $long, share: 0.5}
again: {use: data.select.length, data: $best}
"""
METHOD = '''"""Scores by length.

Options:
    power: of the length.
"""

from metier.artefacts import Records, Scores
from metier.data.select import _helper
from metier.options import Positive


def score(data: Records, *, power: Positive = 1.0) -> Scores:
    """A number for each."""
    texts = zip(data.column("id"), data.column("text"), strict=True)
    return Scores.from_rows({"id": i, "score": _helper.worth(text) ** power, "reason": None} for i, text in texts)
'''
HELPER = '"""A helper."""\n\n\ndef worth(text: str) -> float:\n    return float(len(text))  # characters\n'
MAIN = "from metier.__main__ import main; main()"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    room = tmp_path / "own" / "data" / "select"
    room.mkdir(parents=True)
    (room / "mine.py").write_text(METHOD, encoding="utf-8")
    (room / "_helper.py").write_text(HELPER, encoding="utf-8")
    (tmp_path / "docs").mkdir()
    for i in range(12):
        words = " ".join(f"word{i}x{k} stands in a line of its own." for k in range(40 + i))
        (tmp_path / "docs" / f"{i}.txt").write_text(words, encoding="utf-8")
    (tmp_path / "r.yaml").write_text(RECIPE.replace("DOCS", str(tmp_path / "docs")), encoding="utf-8")
    return tmp_path


def command(place: Path, *arguments: str, code: str = MAIN) -> list[str]:
    methods, recipe = str(place / "own"), str(place / "r.yaml")
    return [sys.executable, "-c", code, "--methods", methods, "run", recipe, "--json", *arguments]


def environment(place: Path) -> dict[str, str]:
    return os.environ | {"METIER_HOME": str(place / "home"), "HF_HUB_OFFLINE": "1"}


def ran(place: Path, *arguments: str, code: str = MAIN) -> list[dict[str, Any]]:
    done = subprocess.run(command(place, *arguments, code=code), capture_output=True, text=True, env=environment(place))
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def fresh(rows: list[dict[str, Any]]) -> list[str]:
    return [row["step"] for row in rows if not row["cached"]]


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def test_a_change_reruns_exactly_what_depends_on_it(place: Path) -> None:
    room = place / "own" / "data" / "select"
    everything = ["texts", "long", "best", "again"]
    assert fresh(ran(place)) == everything
    assert fresh(ran(place)) == []
    edit(room / "_helper.py", "  # characters", "  # a comment changes nothing")
    edit(room / "mine.py", '"""A number for each."""', '"""Nor does a docstring."""')
    assert fresh(ran(place)) == []
    edit(room / "_helper.py", "len(text))", "-len(text) + 10**6)")
    assert fresh(ran(place)) == ["long", "best", "again"]
    edit(room / "mine.py", "** power", "* power")  # another method, the same scores at power 1
    assert fresh(ran(place)) == ["long"]
    assert fresh(ran(place, "--set", "long.power=2")) == ["long", "best"]  # the best stay the same
    assert fresh(ran(place, "--set", "best.share=0.25")) == ["best", "again"]
    edit(place / "docs" / "3.txt", "word3x1", "another")
    assert fresh(ran(place)) == everything
    other = "import importlib.metadata as m; v = m.version; m.version = lambda n: '0.0' if n == '{}' else v(n); "
    assert fresh(ran(place, code=other.format("pdfminer.six") + MAIN)) == ["texts"]  # it alone reads documents
    assert fresh(ran(place, code=other.format("pyarrow") + MAIN)) == everything
    assert fresh(ran(place, code=other.format("peft") + MAIN)) == []
    assert fresh(ran(place)) == []


def test_two_runs_at_once_share_what_they_compute(place: Path) -> None:
    pairs = [command(place), command(place), command(place, "--set", "best.share=0.25")]
    running = [
        subprocess.Popen(one, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(place))
        for one in pairs
    ]
    told = [(process.communicate(timeout=200), process.returncode) for process in running]
    assert [code for _, code in told] == [0, 0, 0], told
    rows = [json.loads(out) for (out, _), _ in told]
    assert [r["key"] for r in rows[0]] == [r["key"] for r in rows[1]]
    assert [r["key"] for r in rows[0]][:2] == [r["key"] for r in rows[2]][:2]
    folders = {p.name for p in (place / "home" / "steps").iterdir()}
    assert folders == {r["key"] for one in rows for r in one}
    assert fresh(ran(place)) == []


@pytest.mark.parametrize("most", [200, 3_000, 20_000])
def test_a_full_disk_is_one_sentence_and_loses_nothing(place: Path, most: int) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    done = subprocess.run(command(place), capture_output=True, text=True, env=environment(place), preexec_fn=limited)
    assert done.returncode == 2, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("metier: ")]
    assert len(said) == 1 and "Traceback" not in done.stderr, done.stderr
    assert len(ran(place)) == 4
    assert fresh(ran(place)) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_at_any_moment_it_says_so_and_goes_on(place: Path, number: int, code: int) -> None:
    for seconds in (0.4, 0.9, 1.6, 2.4):
        process = subprocess.Popen(command(place), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   env=environment(place))  # fmt: skip
        time.sleep(seconds)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
        assert process.returncode in (code, 0), error
        assert "Traceback" not in error
        if process.returncode:
            assert error.strip().splitlines()[-1] == "metier: stopped; the same command goes on from here"
    assert len(ran(place)) == 4


def spoken(
    *arguments: str, stdout: Any = subprocess.PIPE, given: bytes | None = b"", bare: bool = False, user: bool = False,
    **environment: str,
) -> subprocess.CompletedProcess[bytes]:  # fmt: skip
    """The command in an environment; nothing ``given`` is a closed standard input, ``bare`` means without a home."""
    left_out = {"PYTHONUNBUFFERED", *(("HOME", "METIER_HOME", "XDG_CACHE_HOME") if bare else ())}
    known = {k: v for k, v in os.environ.items() if k not in left_out}
    run = [sys.executable, "-c", MAIN, *arguments]
    closing = ["sh", "-c", 'exec "$@" <&-', "sh"] if given is None else []
    return subprocess.run([*closing, *run], input=given, stdout=stdout, stderr=subprocess.PIPE, timeout=200,
                          env=known | environment, preexec_fn=as_a_user if user else None)  # fmt: skip


@pytest.mark.parametrize(
    ("what", "code", "sentence"),
    [
        (["show", "adapt"], 1, ""),
        (["list", "--json"], 1, ""),
        (["list", "steps"], 1, ""),
        (["check", "small.yaml", "--json"], 1, ""),  # held back until the very end
        (["nonsense"], 2, "metier: No such command 'nonsense'."),
    ],
)
def test_a_reader_that_has_read_enough_is_no_fault(
    what: list[str], code: int, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text("texts: data.ingest.general_text\n")
    read, write = os.pipe()
    os.close(read)  # as `| head` does
    done = spoken(*what, stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr.decode().strip()) == (code, sentence)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("what", [["show", "adapt"], ["list"], ["check", "small.yaml", "--json"]])
def test_standard_output_on_a_full_disk_is_one_sentence(
    what: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text("texts: data.ingest.general_text\n")
    with open("/dev/full", "wb") as full:
        done = spoken(*what, stdout=full)
    assert (done.returncode, done.stderr.decode().strip()) == (2, "metier: standard output: No space left on device")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_that_knows_few_letters_shows_what_it_can(encoding: str, place: Path) -> None:
    card = spoken("show", "train.objective.cross_entropy", "--json", PYTHONIOENCODING=encoding)
    assert card.returncode == 0, card.stderr
    assert "Σ" in json.loads(card.stdout.decode(encoding))["doc"]
    assert spoken("show", "adapt", PYTHONIOENCODING=encoding).stdout.decode(encoding).startswith("# Documents in")
    (place / "ü.yaml").write_text("täxts: {use: dätä}\n", encoding="utf-8")
    done = spoken("run", str(place / "ü.yaml"), PYTHONIOENCODING=encoding)
    sentence = "metier: ü.yaml, line 1: täxts: has no method 'dätä'"
    assert done.returncode == 2
    assert done.stderr.startswith(sentence.encode(encoding, "backslashreplace")), done.stderr


def test_names_in_other_letters_are_the_same_in_every_locale(place: Path) -> None:
    (place / "docs" / "résumé 水位.txt").write_text("A valve opens when the meter shows north. " * 20, encoding="utf-8")
    plain = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    home = {"METIER_HOME": str(place / "home"), "NO_COLOR": "1", "COLUMNS": "20"}
    command = ["--methods", str(place / "own"), "run", str(place / "r.yaml"), "--json"]
    first, second = (spoken(*command, **home, **extra) for extra in (plain, {"LC_ALL": "C.UTF-8"}))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    rows = [[(row["step"], row["key"]) for row in json.loads(done.stdout)] for done in (first, second)]
    assert rows[0] == rows[1] and all(row["cached"] for row in json.loads(second.stdout))
    log = place / "home" / "steps" / rows[0][0][1] / "log.jsonl"
    assert json.loads(log.read_text(encoding="utf-8").splitlines()[-1])["kept"] == 13


def test_a_narrow_terminal_loses_no_letter(place: Path) -> None:
    checked = spoken("check", "adapt", COLUMNS="40")
    assert checked.returncode == 0 and "…" not in checked.stdout.decode()
    wide, narrow = (spoken("list", "data.ingest", COLUMNS=n).stdout.decode() for n in ("200", "24"))
    letters = [sorted(c for c in text if c.isalnum()) for text in (wide, narrow)]
    assert letters[0] == letters[1] and max(map(len, narrow.splitlines())) <= 24
    done = spoken("--methods", str(place / "own"), "run", str(place / "r.yaml"), COLUMNS="20", NO_COLOR="1",
                  METIER_HOME=str(place / "home"))  # fmt: skip
    assert done.returncode == 0 and b"\x1b" not in done.stderr
    assert "  texts            data.ingest.documents" in done.stderr.decode()  # a line is not cut in two


def test_standard_input_that_is_closed_or_no_text(toy: Any, place: Path) -> None:
    done = spoken("chat", str(toy.path), given=None)
    assert (done.returncode, done.stderr.decode().strip()) == (
        2, "metier: chat: standard input is closed, so nothing can be asked"
    )  # fmt: skip
    assert spoken("chat", str(toy.path), "--max-tokens", "2", given=b"a\xff\xfe\n").returncode == 0
    (place / "in.yaml").write_text("texts: {use: data.ingest.documents, source: ['-']}\n", encoding="utf-8")
    for given, sentence in (
        (None, "metier: '-' means standard input, which is closed"),
        (b"", "metier: data.ingest.documents: no text could be read from - (1 empty)"),
        (b"a\0b" * 99, "metier: data.ingest.documents: no text could be read from - (1 binary)"),
    ):
        done = spoken("run", str(place / "in.yaml"), "--json", given=given, METIER_HOME=str(place / "home"))
        assert (done.returncode, done.stderr.decode().strip()) == (2, sentence)


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        ("{place}/r.yaml", "METIER_HOME: '{place}/r.yaml' is a file; name a folder"),
        ("{place}/r.yaml/x", "cannot write {place}/r.yaml/x/locks/"),
        ("~nobody-of-that-name/x", "METIER_HOME: '~nobody-of-that-name/x' belongs to nobody this machine knows; name"),
        ("/proc/x", "cannot write /proc/x/locks/"),
    ],
)
def test_a_home_that_is_none(named: str, sentence: str, place: Path) -> None:
    named, sentence = (text.replace("{place}", str(place)) for text in (named, sentence))
    done = spoken("--methods", str(place / "own"), "run", str(place / "r.yaml"), METIER_HOME=named)
    assert done.returncode == 2 and "Traceback" not in done.stderr.decode()
    assert done.stderr.decode().strip().splitlines()[-1].startswith(f"metier: {sentence}"), done.stderr


def test_without_a_home_there_is_still_a_cache(place: Path) -> None:
    run = ["--methods", str(place / "own"), "run", str(place / "r.yaml"), "--json"]
    done = spoken(*run, bare=True, XDG_CACHE_HOME=str(place / "cache"))
    assert done.returncode == 0, done.stderr
    assert {row["key"] for row in json.loads(done.stdout)} == {p.name for p in (place / "cache/metier/steps").iterdir()}


@pytest.mark.skipif(sys.platform != "linux", reason="root gives up its rights as Linux knows them")
def test_what_a_user_may_not_read_or_write(toy: Any, place: Path) -> None:
    (place / "mine").mkdir()
    (place / "mine").chmod(0o555)
    (place / "closed.yaml").write_text("base: model\n")
    (place / "closed.yaml").chmod(0)
    model = shutil.copytree(toy.path, place / "model")
    (model / "config.json").chmod(0)
    texts = f"texts: {{use: data.ingest.documents, source: [{place}/docs]}}\n"
    (place / "w.yaml").write_text(texts + "out: {use: write, data: $texts, to: out.jsonl}\n")
    mine = f"'{place}/mine' may not be written to"
    for arguments, sentence in (
        (["run", f"{place}/closed.yaml"], f"Invalid value for 'recipe': path '{place}/closed.yaml' is not readable."),
        (["run", f"{place}/w.yaml", "--set", f"out.to={place}/mine/a/x.jsonl"],
         f"w.yaml, line 2: write: 'to' is '{place}/mine/a/x.jsonl', and {mine}"),
        (["adapt", f"{place}/docs", "--model", str(toy.path), "--out", f"{place}/mine/x"],
         f"export: 'to' is '{place}/mine/x', and {mine}; choose another place with --out"),
        (["adapt", f"{place}/docs", "--model", str(model), "--out", f"{place}/x"],
         f"{model}/config.json: Permission denied"),
    ):  # fmt: skip
        done = spoken(*arguments, user=True, METIER_HOME=str(place / "home"))
        assert done.returncode == 2 and done.stderr.decode().strip().endswith(sentence), done.stderr
        assert done.stderr.startswith(b"metier: ") and done.stderr.count(b"\n") == 1
    (place / "w.yaml").write_text(texts)
    done = spoken("run", f"{place}/w.yaml", user=True, METIER_HOME=f"{place}/mine/h")
    assert done.returncode == 2
    assert done.stderr.decode().strip().splitlines()[-1].startswith(f"metier: cannot write {place}/mine/h/locks/")


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv.gz", "x.parquet"])
def test_a_full_disk_under_a_written_file_leaves_the_old_one(name: str, place: Path) -> None:
    texts = f"texts: {{use: data.ingest.documents, source: [{place}/docs]}}\n"
    (place / "w.yaml").write_text(f"{texts}out: {{use: write, data: $texts, to: {place}/out/{name}}}\n")
    run = [sys.executable, "-c", MAIN, "run", f"{place}/w.yaml"]
    assert subprocess.run(run, env=environment(place), capture_output=True).returncode == 0
    before = (place / "out" / name).read_bytes()

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))

    done = subprocess.run(run, capture_output=True, text=True, env=environment(place), preexec_fn=limited)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith(f"metier: cannot write {place}/out/.{name}.tmp: a file may not grow this large"), said
    assert (place / "out" / name).read_bytes() == before
    assert sorted(p.name for p in (place / "out").iterdir()) == [f".{name}.metier", name]


def test_a_full_disk_while_many_files_are_copied(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    for name in ("a", "b"):
        (tmp_path / "from" / name).write_bytes(b"x" * 1000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with (
            pytest.raises(MetierError, match=r"^cannot write .*to\.tmp: a file may not grow this large here"),
            replacing(tmp_path / "to") as folder,
        ):
            shutil.copytree(tmp_path / "from", folder, dirs_exist_ok=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [p.name for p in tmp_path.iterdir()] == ["from"]


def test_an_endpoint_that_is_down_slow_or_limits_its_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METIER_HOME", str(tmp_path))
    monkeypatch.setattr("metier.lm.endpoint.FIRST_PAUSE", 0.01)
    with Server(Scripted(facts.make(4))) as server:
        (tmp_path / "r.yaml").write_text(
            "asked: {use: data.ingest.invented, kind: questions, entities: 4, phrasing: test}\n"
            f"writer: {{use: endpoint, model: toy, url: '{server.url}', retries: 1, timeout: 0.3, parallel: 1}}\n"
            "answers: {use: data.answer.writer, data: $asked, writer: $writer}\n"
        )

        def said(*more: str) -> str:
            code, err = told(["run", str(tmp_path / "r.yaml"), "--json", *more])
            assert code == 2 and err.count("\n") == 1, err
            return err.strip().replace(server.url, "URL")

        server.faults = [None, None, None, Fault(429), Fault(429)]  # type: ignore[list-item]
        limited = "metier: endpoint URL: limits its rate (429) after 2 tries; lower 'parallel' or raise 'retries'"
        assert said() == limited
        server.delay = 1
        assert said() == "metier: endpoint URL: no answer within 'timeout' (0.3 s) after 2 tries"
        server.delay, asked = 0, len(server.asked)
        assert said("--set", "writer.url=http://127.0.0.1:9/v1").endswith(
            "cannot be reached after 2 tries; is 'url' right, and the server up?"
        )
        assert told(["run", str(tmp_path / "r.yaml"), "--json"])[0] == 0
        questions = {body["messages"][-1]["content"] for body in server.asked}
        assert len(server.asked) - asked == len(questions) - 3 > 3  # what came before was not asked again
