"""Gallery members whose images are made elsewhere: folders of images, and endpoints that draw."""
