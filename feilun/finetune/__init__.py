"""Base model and examples to a tuned model."""
