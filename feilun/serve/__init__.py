"""Answers over HTTP, each metered durably before it leaves."""
