"""A tuned model, smaller and faster, with proof of what that cost."""
