"""Files of a Space: a web page of a classifier, which runs without PyTorch and this package."""
