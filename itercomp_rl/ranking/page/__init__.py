"""Where people rank images in a browser: the session behind the page, and the page."""
