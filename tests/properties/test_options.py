"""Every annotation the house has: what fits goes round, what does not is one sentence, never another exception."""

from __future__ import annotations

import json
from typing import Any, Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from metier import catalogue, options
from metier.calls import flat
from metier.options import Count, Duration, MetierError, Natural, NonNegative, Positive, Real, Seed, Share

finite = st.floats(allow_nan=False, allow_infinity=False)
FITTING: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "Share": (Share, st.floats(0, 1)),
    "Positive": (Positive, finite.filter(lambda x: x > 0)),
    "NonNegative": (NonNegative, finite.filter(lambda x: x >= 0)),
    "Real": (Real, finite),
    "Count": (Count, st.integers(1)),
    "Natural": (Natural, st.integers(0)),
    "Seed": (Seed, st.integers(0, 2**63 - 1)),
    "Duration": (
        Duration,
        st.floats(1e-3, 1e9) | st.builds("{}{}".format, st.integers(1, 999), st.sampled_from("smh")),
    ),
    "bool": (bool, st.booleans()),
    "str": (str, st.text()),
    "Literal": (Literal["a", "b", 3], st.sampled_from(["a", "b", 3])),
    "union": (Positive | Literal["median"] | None, st.none() | st.just("median") | st.floats(0.1, 9)),
    "list": (list[Share], st.lists(st.floats(0, 1))),
    "map": (dict[str, Count], st.dictionaries(st.text(), st.integers(1))),
    "maps": (dict[str, list[Natural]], st.dictionaries(st.text(max_size=3), st.lists(st.integers(0)))),
}
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4), max_leaves=8,
)  # fmt: skip
OPTIONS = [
    (m.name, p) for m in catalogue.methods().values() if not m.name.startswith("tasks.lm_eval")
    for p in flat(catalogue.load(m)) if p.kind == "value" and p.option
]  # fmt: skip


def parameter(name: str) -> options.Parameter:
    return options.Parameter("x", FITTING[name][0], "value", options.REQUIRED, True)


def one_sentence(error: MetierError, owner: str, option: str) -> bool:
    said = str(error)
    return said.startswith(f"{owner}: '{option}' must be ") and "\n" not in said and len(said) <= options.LONGEST


@given(st.data(), st.sampled_from(sorted(FITTING)))
def test_what_fits_is_taken_and_goes_round(data: st.DataObject, name: str) -> None:
    given_ = data.draw(FITTING[name][1])
    taken = options.checked("a.b", parameter(name), given_)
    assert options.checked("a.b", parameter(name), json.loads(json.dumps(taken))) == taken
    if not isinstance(given_, str) or name == "str":
        assert taken == given_


@given(st.sampled_from(sorted(FITTING)), ANYTHING)
def test_anything_is_taken_or_refused_by_name(name: str, value: Any) -> None:
    try:
        options.checked("a.b", parameter(name), value)
    except MetierError as error:
        assert one_sentence(error, "a.b", "x")


@given(st.sampled_from(OPTIONS), ANYTHING)
@settings(max_examples=400, deadline=None)
def test_every_option_of_every_method_takes_a_value_or_refuses_it_by_name(
    option: tuple[str, options.Parameter], value: Any
) -> None:
    owner, wanted = option
    try:
        taken = options.checked(owner, wanted, value)
    except MetierError as error:
        assert one_sentence(error, owner, wanted.name)
    else:
        json.dumps(taken, default=str)  # it must find its way into keys and manifests


@given(st.text(max_size=2000))
def test_a_sentence_is_one_line_whatever_it_quotes(text: str) -> None:
    said = str(MetierError(f"a.b: 'x' must be 1, got {text}"))
    assert said.isprintable() and len(said) <= options.LONGEST and said.startswith("a.b: 'x' must be 1, got ")
