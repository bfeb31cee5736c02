"""Pages for a browser: self-contained HTML that loads nothing from elsewhere."""
