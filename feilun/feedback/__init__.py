"""Judgements of answers become examples, with the consent of whoever gave them."""
