"""The HTTP API: batches in and out, keys, workers, costs, and metrics for Prometheus, behind bearer tokens.

It does nothing that the commands can't: both call the same functions of this room.
"""
