"""What reaches beyond this machine: proxies, and files of the Hugging Face hub."""
