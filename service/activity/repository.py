"""Queries for the activity log."""

from service.activity.tables import Activity
from service.repository import TenantRepository


class ActivityRepository(TenantRepository[Activity]):
    table, noun = Activity, "activity"
