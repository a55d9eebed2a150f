"""The processes that train together, one for each GPU; torchrun starts them."""
