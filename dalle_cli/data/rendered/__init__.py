"""Captioned pictures that are rendered rather than collected: toy scenes and emoji."""
