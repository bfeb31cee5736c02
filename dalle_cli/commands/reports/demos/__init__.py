"""What the demos' models have learnt: figures, and grids of their pictures."""
