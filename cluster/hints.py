"""What an operator should do about a replica (pure): a sentence for each state and trouble."""

from __future__ import annotations

from typing import Any, Final

HINTS: Final = {
    "connecting": "wait: it was started and has no answer from the primary yet",
    "catching-up": "wait: it is copying what it lacks",
    "in-sync": None,
    "bootstrapping": "wait: it is loading a snapshot, then it follows the log",
    "primary-unreachable": "see whether the primary runs and whether its --primary-url is reached "
    "from there; it serves what it has",
    "not-admitted": "give it this cluster's secret file (or a join token), and set its clock",
    "not-primary": "promote a replica, or give it the --primary-url of the new primary: who it "
    "asks owns the log no more",
    "other-log": "its --primary-url leads to another cluster: correct it, or start with an empty "
    "--state-dir",
    "diverged": "one of the two logs was restored or forked: `pymirror verify` tells where; move "
    "its --state-dir away and let it start afresh, or promote it if it holds the right log",
    "bad-answer": "something between it and the primary changes answers, or versions differ: see "
    "its error and its log",
    "loop": "its --primary-url leads back to itself: let one node of the circle follow the primary",
    "needs-upgrade": "install the primary's version of pymirror there",
    "disk-failed": "its disk takes nothing more: make room on it, or mend or replace it; then it "
    "goes on, after a restart if its error says so (with an empty --state-dir if the disk lost "
    "anything)",
}
LOST_HINT: Final = (
    "it does not poll any more: see whether the machine, the process and the network are up; a "
    "replica that is gone for good is forgotten by `pymirror node revoke` or after 30 days"
)
BEHIND_HINT: Final = (
    "it polls but stays behind: see its load and its disk, and the network to the primary"
)


def hint(state: str | None) -> str | None:
    """What to do about a follower in this state; None when all is well."""
    return HINTS.get(state or "", f"unknown state {state}: see its /+status")


def replica_hint(state: Any, *, is_lost: bool, is_behind: bool) -> str | None:
    """What to do about a replica, as the primary sees it."""
    if is_lost:
        return LOST_HINT
    found = hint(state if isinstance(state, str) else None)
    return BEHIND_HINT if is_behind and found == HINTS["catching-up"] else found
