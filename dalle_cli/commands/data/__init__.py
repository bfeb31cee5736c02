"""commands/data."""
