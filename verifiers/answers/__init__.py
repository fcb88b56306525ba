"""Domains: how answers of one kind are read and compared, a module each."""
