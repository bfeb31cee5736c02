"""Models as graphs, for programs without torch."""
