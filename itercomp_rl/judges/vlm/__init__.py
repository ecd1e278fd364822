"""A vision-language model as a judge: a prompt's statements, one at a time, as yes/no questions about an image."""
