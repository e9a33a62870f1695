"""Telling people what was decided."""
