"""Makes `fakes_of_pictures` importable from the folders below."""
