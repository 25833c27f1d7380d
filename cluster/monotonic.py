"""Make Twisted's clock monotonic: import this before anything imports the reactor.

`twisted.python.runtime.seconds` is the wall clock, so a clock step stalls every long poll,
lease and time-out, or fires them all at once (twisted issue 2424). Imported first by the two
commands' `tap` modules and by the tests' conftest.
"""

from __future__ import annotations

import sys
import time

from twisted.python import runtime

runtime.seconds = time.monotonic

if "twisted.internet.base" in sys.modules:
    # Something imported the reactor's base before us and holds the old function. No timed
    # call can be pending yet: both commands get here while their options are being parsed.
    from twisted.internet.base import ReactorBase

    ReactorBase.seconds = staticmethod(time.monotonic)
