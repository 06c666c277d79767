"""Asks and shows: takes files in, reports what became of them.

This room calls no provider; it knows workers only by the rows they write and the task names in `models.queues`.
"""
