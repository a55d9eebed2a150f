"""READMEs with the results of runs, rendered from Jinja templates."""
