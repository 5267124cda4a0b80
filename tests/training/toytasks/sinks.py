"""Sinks that tests name."""

from typing import ClassVar


class Keeping:
    """Keeps what it is told, of all of its objects together."""

    kept: ClassVar = []

    def open(self, config, directory):
        self.kept.append(("open", config, directory))

    def write(self, rows):
        self.kept.append(("write", list(rows)))

    def figure(self, name, path):
        self.kept.append(("figure", name, path))

    def close(self):
        self.kept.append(("close",))


class Failing(Keeping):
    """Fails when it is written to."""

    def open(self, config, directory):
        pass

    def write(self, rows):
        raise OSError("no way there")


class Unmade(Keeping):
    """Cannot be made."""

    def __init__(self):
        raise ValueError("not today")
