"""Testing a suspect: decoding, its exact test and its controls."""
