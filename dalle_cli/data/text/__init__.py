"""Captions as words."""
