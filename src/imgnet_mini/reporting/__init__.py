"""Results of finished runs as curves, tables, images, pages and READMEs."""
