"""The files in which models are found: untrusted ones are read, pipeline folders are written too."""
