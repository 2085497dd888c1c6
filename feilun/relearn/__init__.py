"""From feedback to a better model, and the decision whether it is worth it."""
