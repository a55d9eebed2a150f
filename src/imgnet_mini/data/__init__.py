"""From folders of images to batches on a device."""
