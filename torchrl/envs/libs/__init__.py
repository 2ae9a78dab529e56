"""Wrappers of other libraries' environments; none is imported before it is used."""
