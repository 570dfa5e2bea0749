"""Inseq's commands as functions."""
