"""JSONL dialects: an input line becomes a job's body, a finished job becomes a result line.

`lines` reads, `results` writes, one file a dialect says how. It does not know the store, and translates nothing: that is the
providers' work.
"""
