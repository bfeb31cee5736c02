"""The story of a run: as facts, in plain words, and as a page."""
