"""Files for what people already run: alert rules, a dashboard, and how to start workers."""
