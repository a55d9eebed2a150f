"""Other layouts of a data set, and the way from them to train/ and val/ with class folders."""
