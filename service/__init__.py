"""The ownership service: HTTP API, database, key vault, artifact storage and job records. Starts without torch."""
