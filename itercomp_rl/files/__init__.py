"""Reading and writing files of a local disk: whole or not at all, and never unpickled."""
