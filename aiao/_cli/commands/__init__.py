"""The commands of the ``aiao`` command line, one module for each thing a user names."""
