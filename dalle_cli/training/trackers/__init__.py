"""Trackers of other makers, to which `--log` sends a run's figures and previews."""
