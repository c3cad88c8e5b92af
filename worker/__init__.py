"""Celery tasks: fetch, run aiao_core, store, report."""
