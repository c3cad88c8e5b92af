"""Queries for the activity log."""

from service.kit.repository import TenantRepository
from service.tables.activity import Activity


class ActivityRepository(TenantRepository[Activity]):
    table, noun = Activity, "activity"
