"""Random walks through the rules of the machine: more of what hurts, and a number is a run.

hypothesis looks for the smallest run that fails; this looks at many that are long and varied.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from tests.simulation.machine import SPOILS, WRITES, Machine
from tests.simulation.network import Link

STEPS = 40
Step = tuple[str, dict[str, Any]]

_NAMES = ("n0", "n1", "n2", "n3")
_SECONDS = (0.02, 0.1, 0.5, 2.0, 12.0, 45.0)
_Make = Callable[[random.Random], dict[str, Any]]


def _name(chance: random.Random) -> str:
    return chance.choice(_NAMES)


_RULES: dict[str, tuple[int, _Make]] = {
    "write": (30, lambda c: {
        "name": _name(c), "more": c.choice(sorted(WRITES)), "secret": c.random() < 0.4,
        "seconds": c.choice(_SECONDS)}),
    "wait": (8, lambda c: {"seconds": c.choice(_SECONDS)}),
    "disturb": (10, lambda c: {
        "one": _name(c), "other": _name(c), "link": c.choice(list(Link)),
        "both": c.random() < 0.5}),
    "heal": (5, lambda c: {}),
    "spoil": (6, lambda c: {
        "name": _name(c), "source": _name(c), "how": c.choice(sorted(SPOILS)),
        "at": c.randrange(2000)}),
    "crash": (6, lambda c: {"name": _name(c), "power": c.random() < 0.5}),
    "crash_soon": (4, lambda c: {"name": _name(c), "syncs": c.randrange(1, 5)}),
    "restart": (8, lambda c: {}),
    "jump": (2, lambda c: {"name": _name(c), "seconds": c.choice((-7200.0, 3600.0, 2592000.0))}),
    "promote": (5, lambda c: {"planned": c.random() < 0.5}),
    "demote": (4, lambda c: {}),
    "burn": (2, lambda c: {}),
    "replace": (3, lambda c: {}),
    "back_up": (1, lambda c: {}),
    "restore": (1, lambda c: {}),
    "compact": (3, lambda c: {}),
    "read": (4, lambda c: {"name": _name(c), "seconds": c.choice(_SECONDS)}),
}  # fmt: skip


def steps(seed: int, count: int = STEPS) -> list[Step]:
    """The walk of this number: how it begins, and what happens then."""
    chance = random.Random(seed)
    begin = {"seed": seed, "level": chance.choice((0, 1, 1, 2)), "every": chance.choice((0, 0, 6))}
    names = list(_RULES)
    # Each walk has a mood: some kinds of things do not happen in it at all.
    weights = [weight * chance.choice((0, 1, 1, 1)) for weight, _ in _RULES.values()]
    weights[0] = max(weights[0], 1)
    chosen = chance.choices(names, weights, k=count)
    return [("begin", begin), *((name, _RULES[name][1](chance)) for name in chosen)]


def walk(taken: list[Step]) -> None:
    """Do these steps, then let all faults end and the nodes come together; raises Violation."""
    machine = Machine()
    done: list[Step] = []
    try:
        for name, values in taken:
            done.append((name, values))
            getattr(machine, name)(**values)
        done.append(("teardown", {}))
        machine.teardown()
    except BaseException as error:
        error.add_note(written(done))
        if machine.it is not None:
            machine.it.close()
        raise


def smallest(taken: list[Step], fails: Callable[[list[Step]], bool]) -> list[Step]:
    """A shorter walk that fails too: steps are left out as long as it does."""
    size = len(taken) // 2
    while size:
        at = 1
        while at < len(taken):
            shorter = taken[:at] + taken[at + size :]
            if fails(shorter):
                taken = shorter
            else:
                at += size
        size //= 2
    return taken


def written(taken: list[Step]) -> str:
    """Steps as the lines of a test."""
    lines = []
    for name, values in taken:
        shown = ", ".join(f"{key}={value!s}" if isinstance(value, Link) else f"{key}={value!r}"
                          for key, value in values.items())  # fmt: skip
        lines.append(f"it.{name}({shown})")
    return "\n".join(lines)
