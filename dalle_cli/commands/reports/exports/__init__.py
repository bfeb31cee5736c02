"""What an export tells of the run it comes from."""
