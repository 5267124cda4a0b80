"""Loaders of data sets; each is in its own module and imports what it needs when it is called."""
