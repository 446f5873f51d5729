"""Odd inputs that a producer may send: one corpus, which every source is put through."""
