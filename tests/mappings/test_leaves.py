"""What is picked out of a JSON text, and what that may cost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from millstream.contract.outside_json import NotJson
from millstream.contract.ports import DataFormat, FilterRules, Mismatch
from millstream.mappings.filters import compile_filters
from millstream.mappings.leaves import MOST_ELEMENTS, Picker, RawAt, Undecided, budget_of
from tests.clock import VirtualClock
from tests.fakes import record

SQS = FilterRules("body", ("body",), DataFormat.TEXT, Mismatch.DROP)

MB = 1024 * 1024

names = st.sampled_from(["a", "b", "a.b", "b.a", "", ".", "ü", 'q"', "\x01", "b\\"])
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4)
)
wanted = st.sets(st.lists(names, min_size=1, max_size=3).map(".".join), max_size=4)


def every_leaf(value: object, keys: tuple[str, ...] = ()) -> dict[str, list[Any]]:
    """All leaves of a document by path, the plain way."""
    inner = [(keys, element) for element in value] if isinstance(value, list) else []
    if isinstance(value, dict):
        inner = [((*keys, key), element) for key, element in value.items()]
    elif not isinstance(value, list):
        return {".".join(keys): [value]} if keys else {}
    found: dict[str, list[Any]] = {}
    for at, element in inner:
        for path, leaves in every_leaf(element, at).items():
            found.setdefault(path, []).extend(leaves)
    return found


@given(documents, wanted)
def test_the_leaves_at_the_wanted_paths_are_found_and_no_others(document: object, paths: set[str]) -> None:
    text = json.dumps(document).encode()
    picked = Picker(paths).pick(text, budget_of(len(text)))
    found = {path: sorted(repr(value) for value, _ in leaves) for path, leaves in picked.items()}
    plain = {path: sorted(map(repr, leaves)) for path, leaves in every_leaf(document).items()}
    assert found == {path: leaves for path, leaves in plain.items() if path in paths}


@given(documents, wanted)
def test_what_is_read_slowly_has_the_same_leaves_in_the_same_places(
    document: object, paths: set[str]
) -> None:
    picker, text = Picker(paths), json.dumps({"top": document}).encode()
    quick = picker.pick(text, budget_of(len(text)))
    assert picker._walked(json.loads(text), budget_of(len(text))) == quick


@given(st.binary())
def test_any_bytes_are_json_or_are_not(text: bytes) -> None:
    try:
        json.loads(text.decode())
    except (ValueError, RecursionError):
        return
    Picker(["a"]).pick(text, budget_of(len(text)))


@pytest.mark.parametrize("text", [b"", b"nul", b"{", b'{"a":1}}', b"[1,]"])
def test_what_is_no_json_says_so(text: bytes) -> None:
    with pytest.raises(NotJson):
        Picker(["a"]).pick(text, budget_of(len(text)))


def test_json_that_only_the_standard_library_reads_is_picked_too() -> None:
    text = b'{"note":"\\ud83d","a":{"n":1e400}}'
    assert Picker(["a.n"]).pick(text, budget_of(len(text))) == {"a.n": [(float("inf"), ())]}


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":[' + b",".join([b"[1]"] * (MOST_ELEMENTS + 1)) + b"]}",
        b'{"a":[' + b",".join([b"[1]"] * MB) + b"]}",
        b'{"a":' + b"[" * 900 + b'"' + b"x" * MB + b'"' + b"]" * 900 + b"}",
        b'{"note":"\\ud83d","a":"' + b"x" * MB + b'"}',
    ],
    ids=["many elements", "very many elements", "deep and large", "refused and large"],
)
def test_what_would_cost_too_much_is_given_up(text: bytes) -> None:
    with pytest.raises(Undecided):
        Picker(["a"]).pick(text, budget_of(len(text)))


def test_a_large_event_off_the_wanted_paths_costs_no_element() -> None:
    text = b'{"noise":[' + b",".join([b"[1]"] * MB) + b'],"a":1}'
    assert Picker(["a"]).pick(text, budget_of(len(text))) == {"a": [(1, ())]}


@given(documents)
def test_the_text_at_a_path_is_found(document: object) -> None:
    text = json.dumps({"k": {"data": document}}, separators=(",", ":")).encode()
    (outer, inner) = RawAt(("k", "data")).find(text)
    assert json.loads(outer) == {"data": document}
    assert json.loads(inner) == document


def test_the_text_at_a_path_is_found_beside_what_only_the_standard_library_reads() -> None:
    text = b'{"note":"\\ud83d","k":{"data":"x"}}'
    assert [json.loads(found) for found in RawAt(("k", "data")).find(text)] == [{"data": "x"}, "x"]


async def test_a_record_that_cannot_be_decided_on_is_delivered_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    filters = compile_filters([{"body": {"a": ["x"]}}], SQS)
    hostile = json.dumps({"body": json.dumps([[1]] * 2 * MOST_ELEMENTS)}).encode()
    records = [structs.replace(record(1), event=hostile) for _ in range(3)]
    matched, dropped = await filters.split(records, VirtualClock())
    assert (list(matched), list(dropped)) == (records, [])
    (line,) = [line for line in caplog.records if line.message.startswith("filters cannot decide")]
    assert line.__dict__["position"] == "1"
