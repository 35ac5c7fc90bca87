"""Pictures and tables of plans and searches."""
