"""What may stand in an order to a replaced primary."""

from __future__ import annotations

import pytest

from cluster.errors import InvalidRequest
from primary.fencing import fence_order


def test_good_orders() -> None:
    """An epoch, and where its owner is, if that is known."""
    assert fence_order(b'{"epoch": 2, "url": "https://new.example"}') == (2, "https://new.example")
    assert fence_order(b'{"epoch": 2}') == (2, None)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"epoch": 1e30}', b'{"epoch": "2"}', b'{"epoch": true}', b'{"epoch": -1}',
     b'{"epoch": 9223372036854775807}', b'{"epoch": 2, "url": 5}', b'{"epoch": 2, "url": "new"}',
     b'{"epoch": 2, "url": "http://x\\r\\nA: b"}', b'{"epoch": 2, "url": "http://["}'],
)  # fmt: skip
def test_refused_orders(body: bytes) -> None:
    """What could not be kept, or not be said in a header, changes nothing."""
    with pytest.raises(InvalidRequest):
        fence_order(body)
