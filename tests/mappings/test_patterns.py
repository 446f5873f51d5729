"""Event patterns: the answers recorded from EventBridge, and properties that hold for any event."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.mappings.leaves import Picker, Undecided, budget_of
from millstream.mappings.matchers import InvalidPattern
from millstream.mappings.patterns import Tries, compile_pattern, matches, paths

MISSING = object()


def holds(pattern: object, event: object) -> bool:
    compiled, text = compile_pattern(pattern), json.dumps(event).encode()
    leaves = Picker(paths(compiled)).pick(text, budget_of(len(text)))
    return matches(compiled, leaves, Tries())


@pytest.mark.parametrize(
    ("matcher", "value", "answer"),
    [
        ([{"anything-but": "initializing"}], "pending", True),
        ([{"anything-but": "initializing"}], "initializing", False),
        ([{"anything-but": "initializing"}], None, True),
        ([{"anything-but": "initializing"}], MISSING, False),
        ([{"anything-but": ["stopped", "overloaded"]}], "pending", True),
        ([{"anything-but": ["stopped", "overloaded"]}], "stopped", False),
        ([{"anything-but": ["stopped", "overloaded"]}], MISSING, False),
        ([{"anything-but": 123}], 789, True),
        ([{"anything-but": 123}], 123, False),
        ([{"anything-but": 0}], 789, True),
        ([{"anything-but": [100, 200, 300]}], 999, True),
        ([{"anything-but": [100, 200, 300]}], 100, False),
        ([{"anything-but": {"prefix": "init"}}], "post-init", True),
        ([{"anything-but": {"prefix": "init"}}], "init-prefix", False),
        ([{"anything-but": {"prefix": "init"}}], 12, True),
        ([{"anything-but": {"prefix": "init"}}], None, True),
        ([{"anything-but": {"prefix": "init"}}], MISSING, False),
        ([{"anything-but": {"prefix": ["init", "post"]}}], "post-init", False),
        ([{"anything-but": {"suffix": ".txt"}}], "file.txt.bak", True),
        ([{"anything-but": {"suffix": ".txt"}}], "file.txt", False),
        ([{"anything-but": {"suffix": [".txt", ".jpg"]}}], "file.jpg", False),
        ([{"anything-but": {"wildcard": "*/init/*"}}], "dir/init/file", False),
        ([{"anything-but": {"wildcard": "*/dir/*"}}], "dir/init/file", True),
        ([{"anything-but": {"wildcard": "*/dir/*"}}], 123, True),
        ([{"anything-but": {"wildcard": "*/dir/*"}}], None, True),
        ([{"anything-but": {"equals-ignore-case": ["initializing", "stopped"]}}], "Stopped", False),
        ([{"anything-but": {"equals-ignore-case": ["initializing", "stopped"]}}], "pending", True),
        ([{"prefix": "2022-07-13"}], "2022-07-13T01:02:03Z", True),
        ([{"prefix": ""}], "any", True),
        ([{"prefix": {"equals-ignore-case": "EventB"}}], "EvEnTbridge", True),
        ([{"suffix": {"equals-ignore-case": ".png"}}], "image.PNG", True),
        ([{"suffix": {"equals-ignore-case": ".png"}}], "image.jpg", False),
        ([{"suffix": ".PNG"}], "image.png", False),
        ([{"suffix": {"equals-ignore-case": ".png"}}], "PNG", False),
        ([{"equals-ignore-case": "Straße"}], "sTRAßE", True),
        ([{"equals-ignore-case": "Straße"}], "STRASSE", False),
        ([{"prefix": {"equals-ignore-case": "ß"}}], "ss", False),
        ([{"equals-ignore-case": ""}], "", True),
        ([{"equals-ignore-case": ""}], "test-value", False),
        ([{"numeric": [">", 0, "<=", 5]}], 3, True),
        ([{"numeric": [">", 0, "<=", 5]}], 42, False),
        ([{"numeric": ["=", 3.018e2]}], 301.8, True),
        ([{"numeric": [">", 100]}], 101.0, True),
        ([{"numeric": [">", 100]}], "300", False),
        ([{"numeric": [">", 100]}], None, False),
        ([{"wildcard": "/Users/*/doc.txt"}], "/Users/ls_user/dir/dir/doc.txt", True),
        ([{"wildcard": "/Users/*/doc.txt"}], "/Users/ls_user/dir/notmatchingdoc.txt", False),
        ([{"wildcard": ""}], "x", False),
        ([{"wildcard": "a\\*b"}], "a*b", True),
        ([{"wildcard": "a\\*b"}], "axb", False),
        ([{"wildcard": "ab*ba"}], "aba", False),
        ([{"cidr": "10.0.0.0/24"}], "10.0.0.255", True),
        ([{"cidr": "10.0.0.0/24"}], "10.0.0.256", False),
        ([{"cidr": "10.0.0.0/24"}], 123, False),
        ([{"cidr": "2001:db8:1234:1a00::/64"}], "2001:0db8:1234:1a00:0000:0000:0000:0000", True),
        ([{"cidr": "2001:db8:1234:1a00::/64"}], "2001:0db8:123f:1a01::", False),
        ([{"exists": True}], "leaf", True),
        ([{"exists": True}], None, True),
        ([{"exists": True}], {"an": "object"}, False),
        ([{"exists": True}], MISSING, False),
        ([{"exists": True}], [], False),
        ([{"exists": False}], "leaf", False),
        ([{"exists": False}], MISSING, True),
        ([{"exists": False}], {"an": "object"}, True),
        ([{"exists": False}], [], True),
        ([None], None, True),
        ([None], "null", False),
        ([None], [], False),
        ([None], MISSING, False),
        ([""], "", True),
        ([300], 300.0, True),
        ([300], "300", False),
        ([1], True, False),
        ([False], False, True),
        ([False], True, False),
        ([False], 0, False),
        (["v"], ["u", "v"], True),
        (["v"], ["u", "w"], False),
        ([{"exists": True}, {"prefix": "IGNORED"}], "my-value", True),
    ],
)
def test_a_matcher_answers_as_recorded(matcher: list[Any], value: object, answer: bool) -> None:
    event = {} if value is MISSING else {"k": value}
    assert holds({"k": matcher}, event) is answer


@pytest.mark.parametrize(
    "matcher",
    [
        [{"anything-but": None}],
        [{"anything-but": ["a", None]}],
        [{"anything-but": ["a", 1]}],
        [{"anything-but": []}],
        [{"anything-but": True}],
        [{"anything-but": {"prefix": ""}}],
        [{"anything-but": {"prefix": 123}}],
        [{"anything-but": {"numeric": [">", 1]}}],
        [{"prefix": 123}],
        [{"prefix": ["a"]}],
        [{"suffix": 123}],
        [{"suffix": [".png"]}],
        [{"equals-ignore-case": ["x"]}],
        [{"numeric": [">", 0, ">", 0]}],
        [{"numeric": [">", 0, "<"]}],
        [{"numeric": [">", 5, "<", 5]}],
        [{"numeric": ["!", 5]}],
        [{"numeric": [">", "5"]}],
        [{"numeric": 10}],
        [{"NUMERIC": ["=", 5]}],
        [{"EXISTS": True}],
        [{"exists": "yes"}],
        [{"exists": 0}],
        [{"wildcard": "a:**:b"}],
        [{"wildcard": 123}],
        [{"wildcard": ["a*"]}],
        [{"wildcard": "*:*:*:*:*:event-bus/*"}],
        [{"wildcard": "a\\b"}],
        [{"cidr": "bad-filter"}],
        [{"cidr": "xx.11.xx/8"}],
        [{"cidr": ["x"]}],
        [{"prefix": "a", "suffix": "b"}],
        [["nested"]],
        [],
        "v",
        42,
        {},
    ],
)
def test_a_wrong_matcher_is_refused(matcher: object) -> None:
    with pytest.raises(InvalidPattern):
        compile_pattern({"k": matcher})


@pytest.mark.parametrize("pattern", [None, [], "text", 7, {}])
def test_a_pattern_is_an_object_that_is_not_empty(pattern: object) -> None:
    with pytest.raises(InvalidPattern):
        compile_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "event", "answer"),
    [
        ({"MY_KEY": ["v"]}, {"my_key": "v"}, False),
        ({"detail": {"k": ["v"]}}, {"detail": '{"k":"v"}'}, False),
        ({"a": {"b": ["x"]}}, {"a.b": "x"}, True),
        ({"a.b": ["x"]}, {"a": {"b": "x"}}, True),
        ({"l1": {"l2": {"l3": {"l4": [{"exists": False}]}}}}, {"l1": {"l2": {"l3": {"l4": 1}}}}, False),
        ({"l1": {"l2": {"l3": {"l4": [{"exists": False}]}}}}, {"l1": {"l2": {}}}, True),
        ({"a": {"S": [{"anything-but": ["roses"]}, {"exists": False}]}}, {"a": {"S": "ABCD"}}, True),
        ({"a": {"S": [{"anything-but": ["roses"]}, {"exists": False}]}}, {"a": {"N": "1"}}, True),
        ({"a": {"S": [{"anything-but": ["roses"]}, {"exists": False}]}}, {}, True),
        ({"i": {"x": [1], "y": [2]}}, {"i": [{"x": 1, "y": 3}, {"x": 4, "y": 2}]}, False),
        ({"i": {"x": [1], "y": [2]}}, {"i": [{"x": 0, "y": 2}, {"x": 1, "y": 2}]}, True),
        ({"i": {"x": [1], "y": [2]}}, {"i": [[{"x": 1}, {"z": 0}], [{"y": 2}, {"z": 0}]]}, False),
        ({"i": {"x": [1], "y": [2]}}, {"i": [[{"x": 0}], [{"x": 1, "y": 2}]]}, True),
        ({"i": {"x": [1]}, "j": {"y": [2]}}, {"i": [{"x": 0}, {"x": 1}], "j": [{"y": 2}]}, True),
        ({"x": ["a"], "y": ["b"]}, {"x": "a"}, False),
    ],
)
def test_a_pattern_answers(pattern: object, event: object, answer: bool) -> None:
    assert holds(pattern, event) is answer


OR = {"$or": [{"c": [{"numeric": [">", 0]}]}, {"d": [{"numeric": ["<", 10]}]}]}


@pytest.mark.parametrize(
    ("event", "answer"), [({"c": 0, "d": 0}, True), ({"c": 0, "d": 10}, False), ({"c": 1}, True)]
)
def test_or_holds_if_one_of_its_groups_does(event: object, answer: bool) -> None:
    assert holds(OR, event) is answer


def test_or_stands_at_any_level_and_beside_fields() -> None:
    pattern = {"x": ["1"], "in": {"$or": [{"a": ["y"]}, {"b": ["z"]}]}}
    assert holds(pattern, {"x": "1", "in": {"b": "z"}})
    assert not holds(pattern, {"x": "2", "in": {"b": "z"}})


def test_or_with_an_operator_word_as_a_field_is_an_ordinary_field() -> None:
    with pytest.raises(InvalidPattern):
        compile_pattern({"$or": [{"prefix": ["a"]}, {"b": ["z"]}]})


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()
)
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)


@given(scalars)
def test_a_literal_matches_itself(value: object) -> None:
    assert holds({"k": [value]}, {"k": value})


@given(st.text(), st.text())
def test_anything_but_is_the_complement(wanted: str, value: str) -> None:
    assert holds({"k": [{"anything-but": wanted}]}, {"k": value}) is not holds({"k": [wanted]}, {"k": value})


@given(documents, documents)
def test_any_pattern_is_compiled_or_refused_and_any_event_answered(pattern: object, event: object) -> None:
    try:
        compiled = compile_pattern(pattern)
    except InvalidPattern:
        return
    assert holds(pattern, event) in (True, False)
    assert list(paths(compiled))


group_fields = st.dictionaries(
    st.sampled_from("abc"), st.lists(st.sampled_from([1, 2]), min_size=1, max_size=2), min_size=1
)
elements = st.dictionaries(st.sampled_from("abc"), st.sampled_from([1, 2, 3]))


@given(group_fields, group_fields, st.one_of(elements, st.lists(elements, max_size=4)))
def test_or_is_the_union(one: Any, other: Any, event: object) -> None:
    either = holds({"k": {"$or": [one, other]}}, {"k": event})
    assert either is (holds({"k": one}, {"k": event}) or holds({"k": other}, {"k": event}))


@given(group_fields, st.lists(elements, max_size=4))
def test_a_pattern_holds_for_an_array_if_it_holds_for_one_of_its_elements(fields: Any, event: Any) -> None:
    alone = any(holds({"k": fields}, {"k": element}) for element in event)
    assert holds({"k": fields}, {"k": event}) is alone


def test_alternatives_that_bind_nothing_are_not_multiplied() -> None:
    either = {"$or": [{"x": [{"exists": False}, 1]}, {"y": [{"exists": False}, 1]}]}
    groups = {f"k{number}": either for number in range(40)}
    pattern = {**groups, "last": {"$or": [{"a": ["no"]}, {"b": ["yes"]}]}}
    assert not holds(pattern, {"last": {"b": "no"}})
    event = {name: {"x": 1, "y": 1} for name in groups}
    assert holds(pattern, {**event, "last": {"b": "yes"}})


def test_elements_that_fields_share_are_found_without_trying_each_with_each() -> None:
    pattern = {"a": {"x": [1], "y": [2], "z": [3]}}
    event = {"a": [{"x": 1, "y": 2, "z": 0} for _ in range(3000)]}
    assert not holds(pattern, event)
    assert holds(pattern, {"a": [*event["a"], {"x": 1, "y": 2, "z": 3}]})


def test_an_event_that_would_take_too_many_tries_is_not_decided() -> None:
    pattern = {"a": {"x": [1]}, "b": {"y": [2]}, "c": {"z": [3]}}
    event = {"a": [{"x": 1}] * 300, "b": [{"y": 2}] * 300, "c": [{"z": 0}] * 300}
    with pytest.raises(Undecided):
        holds(pattern, event)
