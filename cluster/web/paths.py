"""Paths that only the primary answers, and that a replica therefore passes on to it."""

from __future__ import annotations

from typing import Final

TOKENS_PATH: Final = "/+tokens"
AUDIENCE_PATH: Final = "/_/oidc/audience"
MINT_PATH: Final = "/_/oidc/mint-token"
DISCOVERY_PATH: Final = "/.well-known/pytp"
