"""The site builds without a warning, has a page for every method, and loads nothing from elsewhere."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import docs_card
import docs_method
import pytest
import yaml

from metier import catalogue, options, papers, recipe, stats
from metier.calls import Call
from metier.study import read as study
from metier.tasks import general

ROOT = Path(__file__).parents[2]
METHODS = list(catalogue.methods().values())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(place)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return place


def text_of(page: Path) -> str:
    """The words of a page without its tags."""
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_every_method_has_a_page_that_tells_its_options(site: Path) -> None:
    for method in METHODS:
        page = site / docs_method.place(method).replace(".md", ".html")
        source, words = page.read_text(encoding="utf-8"), text_of(page)
        assert method.name in words and docs_method.name_of(method) in words
        for option in (o.name for o in docs_method.taken(method)):
            assert f"<code>{option}</code>" in source, f"{method.name}: {option}"


def test_the_decision_page_and_the_list_name_every_method(site: Path) -> None:
    for name in ("which.html", "methods/index.html"):
        source = (site / name).read_text(encoding="utf-8")
        for method in METHODS:
            assert f"<code>{docs_method.name_of(method)}</code>" in source, f"{name}: {method.name}"


def test_every_paper_has_its_row(site: Path) -> None:
    source, words = (site / "papers.html").read_text(encoding="utf-8"), text_of(site / "papers.html")
    for row in papers.rows():
        assert f'id="paper-{row["paper"]}"' in source and row["title"] in words


def test_every_study_that_has_run_has_its_page(site: Path) -> None:
    listed = text_of(site / "studies.html")
    for result in ROOT.glob("studies/*/results.json"):
        facts = json.loads(result.read_text(encoding="utf-8"))
        words = text_of(site / "studies" / f"{result.parent.name}.html")
        assert facts["title"] in listed and all(c["says"] in words and c["verdict"] in words for c in facts["claims"])
        assert (site / "studies" / result.parent.name / "results.json").read_bytes() == result.read_bytes()


def test_every_room_is_told() -> None:
    assert list(docs_method.ROOMS) == list(catalogue.ROOMS)


class Loaded(HTMLParser):
    """What a page makes a browser load; a plain link is not among it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if value and (name in ("src", "srcset", "data", "poster", "style") or (tag == "link" and name == "href")):
                self.found.append(value)


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(docs_method.by_file())
    for page in pages:
        source = page.read_text(encoding="utf-8")
        loaded = Loaded()
        loaded.feed(source)
        inline = re.findall(r"(?:@import|url\()[^;)]*", "".join(re.findall(r"<style.*?</style>", source, re.DOTALL)))
        assert not [a for a in (*loaded.found, *inline) if re.search(r"(https?:)?//", a)], page.name
        assert 'class="mermaid"' not in source  # the theme would fetch a program to draw it
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet.name


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_a_pages_recipe_is_one_that_check_accepts(
    method: catalogue.Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "handbook").mkdir()
    (tmp_path / "handbook" / "one.txt").write_text("A line.", encoding="utf-8")
    (tmp_path / "chats.jsonl").write_text('{"text": "A line."}', encoding="utf-8")
    if docs_method.parameters(method) is None:
        pytest.skip("its library is not installed")
    ((name, given),) = yaml.safe_load(docs_method.snippet(method)).items()
    used = catalogue.find(given.pop("use"), "page")
    recipe.bind(name, used, given, above(used, given))


def above(used: catalogue.Method, given: dict[str, object]) -> dict[str, Call]:
    """For every `$name` a step that gives what is wanted there."""
    found = {}
    for parameter in docs_method.parameters(used) or []:
        kinds = [a.__name__ for a in options.leaves_of(parameter.annotation) if getattr(a, "ROLE", "") == "artefact"]
        for name in re.findall(r"\$(\w+)", str(given.get(parameter.name, ""))) if kinds else []:
            kind = "Model" if kinds[0] == "Chat" else kinds[0]  # a model opens as a chat
            maker = next(m for m in METHODS if m.returns == kind)
            found[name] = Call(name, maker, catalogue.load(maker), {}, False)
    for value in given.values():  # methods in slots
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, dict) and "use" in inner:
                found |= above(catalogue.find(inner["use"], "page"), inner)
    return found


@pytest.mark.parametrize("method", [m for m, *_ in docs_method.by_file()], ids=docs_method.name_of)
def test_a_formula_keeps_every_sign(method: catalogue.Method) -> None:
    blocks = re.findall(r"(?<=\n\n)(?: {4}.*\n?)+(?=\n|$)", method.doc)
    shown = re.findall(r'<div class="formula".*', docs_card.read(method.doc).body)
    assert len(shown) == len(blocks)
    for block, typeset in zip(blocks, shown, strict=True):
        assert signs(html.unescape(re.sub(r"<[^>]+>", "", typeset))) == signs(block)


def signs(text: str) -> str:
    """What is raised or lowered counts as the sign it is; spaces and the marks of lowering do not count."""
    return re.sub(r"[\s_*`]", "", text.translate(str.maketrans(docs_card.LOWERED | docs_card.RAISED)))


@pytest.mark.parametrize(
    ("written", "typeset"),
    [
        ("Σ_b log p(y_b<t)", "Σ<sub><i>b</i></sub> log <i>p</i>(<i>y</i><sub><i>b</i>&lt;<i>t</i></sub>)"),
        ("θₖ₋₁ + g²", "<i>θ</i><sub><i>k</i>−1</sub> + <i>g</i><sup>2</sup>"),
        ("score of a source = weight_decay·F1", "score of a source = weight_decay·F1"),
    ],
)  # fmt: skip
def test_variables_lean_and_words_stand(written: str, typeset: str) -> None:
    assert docs_card.typeset(written) == typeset


def test_columns_stay_columns() -> None:
    rows = docs_card.columns(["rate = x / warmup       for x < warmup", "rate = 1                afterwards"])
    assert rows == [["rate = x / warmup", "for x < warmup"], ["rate = 1", "afterwards"]]


def test_the_card_is_parted() -> None:
    card = docs_card.read(
        "Does it.\n\nFor `this`. Not for that.\n\n    y = x\n\nPaper: 8, 9\n"
        "Options:\n    a: one\n        more.\n    b: two.\nRaises: MetierError when\n    it is bad."
    )  # fmt: skip
    assert (card.summary, card.options) == ("Does it.", {"a": "one more.", "b": "two."})
    assert card.said == {"Paper": "8, 9", "Raises": "MetierError when it is bad."}


def test_numbers_of_the_verdicts_are_those_of_the_code() -> None:
    words = " ".join((ROOT / "docs" / "verdicts.md").read_text(encoding="utf-8").split())
    for told in (
        f"under {stats.FEWEST_BYTES // 1000} kB of documents",
        f"fewer than {stats.FEWEST_ANSWERS} questions",
        f"{stats.LEVEL:.0%} t interval".replace("%", " %"),
        f"{general.BITS_MARGIN} bits per byte of prose, {100 * general.ACCURACY_MARGIN:g} points of right answers",
    ):
        assert told in words, told
    assert (stats.FEWEST_CLUSTERS, stats.THRESHOLDS) == (5, 10)  # told as words: five groups, ten thresholds


def test_recipes_that_pages_show_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those without a name too: a step that a page shows is one that can be read."""
    for page in (ROOT / "docs").glob("*.md"):
        for text in re.findall(r"```yaml[^\n]*\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            raw = yaml.safe_load(text)
            if "recipe" in raw:
                assert set(raw) <= set(study.KEYS)
            else:
                recipe.parse(text, page.name)


def test_files_that_pages_name_are_there() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        for name in re.findall(r"`((?:tests|scripts|benchmarks|examples)/[^\s`]*)`", page.read_text(encoding="utf-8")):
            assert (ROOT / name).exists(), f"{page.name}: {name}"
