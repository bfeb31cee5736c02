"""What of a run is damaged, part by part, and what helps, for `doctor` and `info`."""
