"""The pack: images decoded and resized once, and what writes, opens and reads it."""
