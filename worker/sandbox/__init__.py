"""The sandbox: a local server that plays OpenAI, Gemini and Claude over real HTTP, with limits, faults and a truth log.

It knows nothing of batches, jobs or workers: only what arrives over the wire.
"""
