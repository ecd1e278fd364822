"""LMD and LMD+: objects are pulled into the boxes of a layout."""
