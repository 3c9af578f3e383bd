"""Telling people of incidents: by a signed webhook, and by chat."""
