"""Policies tried on recorded traces, without a model."""
