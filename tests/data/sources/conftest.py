"""Makes `layouts` importable from the folders below."""
