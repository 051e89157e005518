"""Twinfold: a live one-way folder synchroniser."""
