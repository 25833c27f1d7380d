"""The operators of ``PATCH /<user>/<index>`` (pure; devpi-api §4).

A list of texts ``key=value``, ``key+=value``, ``key-=value``, ``key-=`` changes options one after
the other; an object sets its keys. Both become `Operation` values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from attrs import frozen

from cluster.errors import InvalidRequest


class Operator(Enum):
    """What is done to an option."""

    SET = "="
    ADD = "+="
    REMOVE = "-="
    DROP = "-= without a value"


@frozen
class Operation:
    """One step of a PATCH; `value` is as it was sent, unchecked."""

    operator: Operator
    key: str
    value: Any = None


def operations(patch: object) -> list[Operation]:
    """Read the JSON body of a PATCH; raises InvalidRequest for anything but the two forms."""
    if isinstance(patch, Mapping):
        inner = patch.get("result")
        if patch.get("type") == "indexconfig" and isinstance(inner, Mapping):
            patch = inner  # the answer to a GET, changed and sent back as a whole
        return [Operation(Operator.SET, str(key), value) for key, value in patch.items()]
    if isinstance(patch, list):
        return [_operation(number, text) for number, text in enumerate(patch, start=1)]
    raise InvalidRequest("index options are an object, or a list of texts such as 'key+=value'")


def _operation(number: int, text: object) -> Operation:
    # What is wrong may hold a password: messages count it and do not repeat it.
    if not isinstance(text, str) or "=" not in text:
        raise InvalidRequest(f"operation {number} is not of the form key=value, += or -=")
    key, _, value = text.partition("=")
    operator = {"+": Operator.ADD, "-": Operator.REMOVE}.get(key[-1:], Operator.SET)
    if operator is not Operator.SET:
        key = key[:-1]
    if not key:
        raise InvalidRequest(f"operation {number} names no option")
    if operator is Operator.REMOVE and not value:
        return Operation(Operator.DROP, key)
    return Operation(operator, key, value)


def combined(operation: Operation, current: object, items: Sequence[Any]) -> list[Any]:
    """The list after `items` were added to it or removed from it.

    Raises InvalidRequest for an option that holds no list, and for removing what is not there.
    """
    key = operation.key
    if not isinstance(current, list):
        raise InvalidRequest(f"{key} holds no list: {operation.operator.value} cannot change it")
    if operation.operator is Operator.ADD:
        return current + [item for item in dict.fromkeys(items) if item not in current]
    for item in items:
        if item not in current:
            raise InvalidRequest(f"{item!r} is not in {key}")
    return [item for item in current if item not in items]
