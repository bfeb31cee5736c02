"""Figures that commands print, each computed by a module that belongs to a single command."""
