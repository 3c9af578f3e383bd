"""Incidents: what has gone wrong, told once when it begins and once when it is over.

`facts` looks, `incident` decides, `book` keeps what was decided in the registry by compare-and-set, so that
of any number of processes that look one tells. Who sends the messages, and how, is the faces' business.
"""
