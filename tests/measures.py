"""Measures for reports that tests write themselves."""

MEASURES = {
    "bits": {"ask": "read", "kind": "domain", "unit": "bits per byte", "better": "lower", "title": "documents",
             "words": "W.", "margin": None, "chance": None, "normalise": "none", "pool": None},
    "facts": {"ask": "choose", "kind": "retention", "unit": "accuracy", "better": "higher", "title": "facts",
              "words": "W.", "margin": 0.03, "chance": 0.25, "normalise": "none", "pool": "skills"},
}  # fmt: skip
MEASURES["sums"] = MEASURES["facts"] | {"title": "sums"}
TASKS = {"t": {"measures": MEASURES, "notes": {}}}
