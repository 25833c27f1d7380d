"""The devpi-shaped JSON API: index resources."""
