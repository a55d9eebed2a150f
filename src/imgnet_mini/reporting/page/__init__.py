"""Pages of HTML that hold all they need: the report of a run, the comparison of several."""
