"""What an app and its broker tell `crisper doctor`; nothing is changed anywhere."""
