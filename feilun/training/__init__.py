"""The one loop, and what it is made of. ``loop`` and what it uses load torch; ``settings`` does not."""
