"""Inputs to try TruckLLM with; they travel in the wheel, so that `truckllm demo` works in an empty folder. No code lives here."""
