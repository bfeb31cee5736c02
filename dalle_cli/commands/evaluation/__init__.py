"""`dalle evaluate`, and how its figures are shown."""
