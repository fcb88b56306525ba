"""Strategies that lengthen, shorten or take over an attempt's thinking."""
