"""Sources that are tables: rows that name pictures, or hold them, and their captions."""
