"""What may stand in an order to a replaced primary."""

from __future__ import annotations

import pytest

from cluster.errors import InvalidRequest
from cluster.log.epochs import Start
from primary.fence import Order, fence_order

URL, KEY = "https://new.example", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
PROVEN = Start(2, 9, KEY, "a node", "a proof", bytes(32))


def test_good_orders() -> None:
    """An epoch, and where its owner is, if that is known."""
    assert fence_order(b'{"epoch": 2, "url": "https://new.example"}') == Order(2, URL)
    assert fence_order(b'{"epoch": 2}') == Order(2)
    assert fence_order(b'{"epoch": 2, "begun": false}') == Order(2, begun=False)
    for order in (Order(2, URL, KEY), Order(2, URL, KEY, PROVEN)):
        assert fence_order(order.encoded()) == order


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"epoch": 1e30}', b'{"epoch": "2"}', b'{"epoch": true}', b'{"epoch": -1}',
     b'{"epoch": 9223372036854775807}', b'{"epoch": 2, "url": 5}', b'{"epoch": 2, "url": "new"}',
     b'{"epoch": 2, "url": "http://x\\r\\nA: b"}', b'{"epoch": 2, "url": "http://["}',
     b'{"epoch": 2, "key": "short"}', b'{"epoch": 2, "key": 1}', b'{"epoch": 2, "start": {}}',
     Order(3, URL, KEY, PROVEN).encoded(), Order(2, URL, None, PROVEN).encoded()],
)  # fmt: skip
def test_refused_orders(body: bytes) -> None:
    """What could not be kept, or not be said in a header, changes nothing."""
    with pytest.raises(InvalidRequest):
        fence_order(body)
