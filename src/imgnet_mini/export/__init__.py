"""Export formats, and the check that an exported model matches the network."""
