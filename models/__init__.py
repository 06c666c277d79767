"""What things are: batches, jobs, attempts, results, money, configuration ("models" as in data models, not LLMs).

This room does no network calls and prints nothing; it imports neither celery nor redis nor httpx.
"""
