"""From a prompt to a plan of the picture: regions, boxes, canvases."""
