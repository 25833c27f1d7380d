"""Tests of pymirror; `builders`, `upstream_server` and `processes` are what they stand on."""
