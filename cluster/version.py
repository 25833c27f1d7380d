"""The version of pymirror; setup.cfg reads it from here."""

__version__ = "0.1.0"
