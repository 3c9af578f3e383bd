"""What shows that Crisper keeps its promises; nothing here is needed in order to use it."""
