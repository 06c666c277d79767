"""Does the work: takes tickets, claims jobs, calls providers within their limits and records what came back.

This room reads no user files and shows nothing; `submit` does that.
"""
