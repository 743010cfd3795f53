from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metier import options
from metier.artefacts import Records
from metier.options import Count, Duration, MetierError, Objective, Positive, Seed, Share
from metier.store import Work


@dataclasses.dataclass(frozen=True)
class Settings:
    ROLE: ClassVar[str] = "spread"
    steps: Count = 1


def method(
    data: Records,
    settings: Settings,
    *,
    tau: Positive | Literal["median"] = "median",
    share: Share = 0.1,
    n: Count = 1,
    rates: list[Positive] = [1.0],  # noqa: B006
    time: Duration = 600.0,
    seed: Seed = 0,
    loud: bool = False,
    objective: Objective = "cross_entropy",
    work: Work | None = None,
) -> Records:
    return data


OPTIONS = {p.name: p for p in options.parameters(method)}


def test_kinds_are_read_off_the_annotation() -> None:
    kinds = {name: p.kind for name, p in OPTIONS.items()}
    assert kinds["data"] == "artefact" and kinds["settings"] == "spread" and kinds["work"] == "work"
    assert kinds["objective"] == "method" and options.room_of(OPTIONS["objective"].annotation) == "train.objective"
    assert {kinds[n] for n in ("tau", "share", "n", "rates", "time", "seed", "loud")} == {"value"}
    assert OPTIONS["data"].required and not OPTIONS["tau"].required
    assert [p.name for p in options.fields(Settings)] == ["steps"]


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("tau", -1, "x.y: 'tau' must be a number greater than 0 or one of 'median', got -1"),
        ("share", 2, "x.y: 'share' must be at most 1.0, got 2"),
        ("share", True, "x.y: 'share' must be a number at least 0 and at most 1, got True"),
        ("n", 0, "x.y: 'n' must be at least 1, got 0"),
        ("n", 1.5, "x.y: 'n' must be a whole number at least 1, got 1.5"),
        ("time", "soon", "x.y: 'time' must be a time such as 600, 90s, 10m or 2h, got 'soon'"),
        ("rates", "x", "x.y: 'rates' must be a list of numbers greater than 0, got 'x'"),
    ],
)
def test_a_bad_value_gets_the_one_sentence(name: str, value: object, sentence: str) -> None:
    with pytest.raises(MetierError) as error:
        options.checked("x.y", OPTIONS[name], value)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("name", "value", "taken"),
    [("share", "1e-4", 1e-4), ("n", "3", 3), ("time", "10m", 600.0), ("time", "1.5h", 5400.0), ("time", 7, 7.0),
     ("tau", "median", "median"), ("loud", True, True)],
)  # fmt: skip
def test_values_from_yaml_and_the_command_line_are_converted(name: str, value: object, taken: object) -> None:
    assert options.checked("x.y", OPTIONS[name], value) == taken


def test_an_unknown_name_gets_the_nearest() -> None:
    assert str(options.unknown("x.y", "tua", ["tau", "n"])) == "x.y: has no option 'tua'; did you mean 'tau'?"


@given(
    st.sampled_from(sorted(set(OPTIONS) - {"data", "settings", "work", "objective"})),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=5,
    ),
)
def test_any_value_is_taken_or_refused_in_one_sentence(name: str, value: object) -> None:
    try:
        options.checked("x.y", OPTIONS[name], value)
    except MetierError as error:
        assert str(error).startswith(f"x.y: '{name}' must be ") and "\n" not in str(error).replace(repr(value), "")
