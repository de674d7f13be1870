"""Readers of other frameworks' weight files, which need none of these frameworks."""
