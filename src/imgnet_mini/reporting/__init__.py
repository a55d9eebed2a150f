"""What is made of a finished run: curves, tables, pictures and pages."""
