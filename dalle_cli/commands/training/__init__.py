"""Subcommands that train a model, or resume its training."""
