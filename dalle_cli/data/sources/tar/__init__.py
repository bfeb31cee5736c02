"""Tar shards: read in place by an index that is kept between commands, and written."""
