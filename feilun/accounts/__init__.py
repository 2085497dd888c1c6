"""Who may ask, what they pay for it, and how much of it they may use."""
