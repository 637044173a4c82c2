"""What people look at: figures, the report's page, progress on the terminal.

Imports from mqjax: everything but commands."""
