"""`crisper doctor`: facts in, findings out. What is asked of servers is asked elsewhere."""
