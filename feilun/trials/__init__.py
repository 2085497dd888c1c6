"""Many trainings instead of one: which settings are best, how sure a figure is, what more data would bring."""
