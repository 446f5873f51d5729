"""Odd items and odd stream records that only DynamoDB Streams can have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Value = dict[str, Any]

DIGITS = "9" * 38  # the most that a number has


def deep(levels: int) -> Value:
    """Maps in maps."""
    value: Value = {"S": "x"}
    for _ in range(levels):
        value = {"M": {"m": value}}
    return value


@dataclass(frozen=True)
class OddItem:
    """One item, as PutItem takes it, but for its key."""

    name: str
    attributes: dict[str, Value]


ODD_ITEMS = (
    OddItem("numbers of 38 digits", {"n": {"N": DIGITS}, "m": {"N": f"-{DIGITS}"}}),
    OddItem("the largest and the smallest number", {"n": {"N": "9E+125"}, "m": {"N": "1E-130"}}),
    OddItem("a fraction of 38 digits", {"n": {"N": f"0.{DIGITS}"}}),
    OddItem("sets of numbers", {"ns": {"NS": ["1", "-0.5", DIGITS]}}),
    OddItem("sets of bytes", {"bs": {"BS": [b"\xff\xfe", b"\0", b"\xf3\x89\x9a\xc2"]}}),
    OddItem("sets of texts", {"ss": {"SS": ["", "\0", "\U0001f980"]}}),
    OddItem("empty values", {"s": {"S": ""}, "b": {"B": b""}, "l": {"L": []}, "m": {"M": {}}}),
    OddItem("nothing and truth", {"n": {"NULL": True}, "t": {"BOOL": True}, "f": {"BOOL": False}}),
    OddItem("maps as deep as they may be", {"d": deep(30)}),
    OddItem("maps deeper than they may be", {"d": deep(60)}),
    OddItem("a long list", {"l": {"L": [{"NULL": True}] * 5000}}),
    OddItem("many attributes", {f"a{number}": {"N": "1"} for number in range(3000)}),
    OddItem("the largest item", {"b": {"B": b"\xff" * 390_000}}),
    OddItem("a text of controls, six bytes each in JSON", {"s": {"S": "\x01" * 390_000}}),
    OddItem("a name that is a character", {"\U0001f980": {"S": "x"}}),
    OddItem("names with what JSON escapes", {'"': {"S": "x"}, "\\": {"S": "x"}, "a\nb\0": {"S": "x"}}),
    OddItem("names with what paths split at", {"a.b[0]": {"S": "x"}, "#n": {"S": "x"}, ":v": {"S": "x"}}),
    OddItem("names of types", {"S": {"S": "x"}, "M": {"M": {"M": {"S": "x"}}}}),
    OddItem("names of the event's parts", {"NewImage": {"S": "x"}, "dynamodb": {"S": "x"}}),
    OddItem("a long name", {"n" * 60_000: {"S": "x"}}),
    OddItem("an empty name", {"": {"S": "x"}}),
)


@dataclass(frozen=True)
class OddChange:
    """One stream record as it may come over the wire."""

    name: str
    change: dict[str, Any]  # in place of the `dynamodb` object's own parts; None: left out
    event: dict[str, Any] | None = None  # in place of the record's own
    broken: bool = False  # it has not what an event must have, and is given up


ODD_CHANGES = (
    OddChange("half a character", {"NewImage": {"pk": {"S": "k"}, "s": {"S": "half \ud83d"}}}),
    OddChange("half a character in its key", {"Keys": {"pk": {"S": "\udc00"}}}),
    OddChange("half a character in a name", {"NewImage": {"\ud83d": {"S": "x"}}}),
    OddChange("a time of no time", {"ApproximateCreationDateTime": None}),
    OddChange("a time as text", {"ApproximateCreationDateTime": "1767225600"}),
    OddChange("a time in the year 57000", {"ApproximateCreationDateTime": 1_736_000_000_000}),
    OddChange("a time before all times", {"ApproximateCreationDateTime": -(10**18)}),
    OddChange("a time that no float holds", {"ApproximateCreationDateTime": "@1e400"}),
    OddChange("a time in a list", {"ApproximateCreationDateTime": [1]}),
    OddChange("an image that is null", {"NewImage": "@null"}),
    OddChange("an image that is a list", {"NewImage": [1, 2]}),
    OddChange("a number that is a number", {"NewImage": {"n": {"N": "@1e400"}}}),
    OddChange("a number of many digits", {"NewImage": {"n": {"N": "@" + "9" * 5000}}}),
    OddChange("an image as deep as JSON may be", {"NewImage": "@" + '{"M":' * 900 + "1" + "}" * 900}),
    OddChange("a size that is text", {"SizeBytes": "many"}),
    OddChange("a type that is not known", {"NewImage": {"x": {"XX": {"y": None}}}}),
    OddChange("no keys", {"Keys": None}, broken=True),
    OddChange("keys that are a list", {"Keys": ["pk"]}),
    OddChange("no event name", {}, {"eventName": None}, broken=True),
    OddChange("an identity that is text", {}, {"userIdentity": "root"}),
    OddChange("an identity of lists", {}, {"userIdentity": {"Type": [1], "PrincipalId": {}}}),
    OddChange("names that nobody knows", {"Never": {"heard": "of"}}, {"it": [1]}),
)
"""A text that begins with `@` stands for the JSON behind it."""
