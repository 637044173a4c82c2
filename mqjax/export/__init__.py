"""Members of a front for the next tool: `member` reads one, `settings` and `models` write it in the formats of others."""
