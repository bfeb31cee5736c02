"""From pictures, a device and a time to recipes, and what a run will cost."""
