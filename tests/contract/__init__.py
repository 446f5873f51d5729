"""Conformance kits: one suite per port, run for every plugin that implements it."""
