"""Real runs are killed again and again, and have to end as those that were left alone: `python -m tests.resume`."""
