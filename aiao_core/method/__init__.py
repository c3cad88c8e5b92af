"""The method of arXiv 2405.00466: choosing a key, embedding it, and the parts of both."""
