"""Figures beside peers, one file for each subject: ``make bench NAME=...``."""
