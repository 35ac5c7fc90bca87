"""Agents compared on equal budgets: cells, statistics and the report."""
