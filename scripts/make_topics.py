"""Write the Python language reference topics that ship with the running interpreter, one .txt file a topic.

    python3.11 scripts/make_topics.py examples/python_reference

The copy in `examples/` is pinned to the version that `examples/README.md` names, so that the quickstart reads the same
documents under every interpreter.
"""

import sys
from pathlib import Path
from pydoc_data.topics import topics


def main(folder: Path) -> None:
    """Write every topic as UTF-8 text and print how many and how large."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in topics.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8", newline="\n")
    size = sum(len(text.encode()) for text in topics.values())
    print(f"Python {sys.version.split()[0]}: {len(topics)} topics, {size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
