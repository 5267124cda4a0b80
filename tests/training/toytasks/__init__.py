"""Tasks small enough for tests, named in configs by their dotted paths."""
