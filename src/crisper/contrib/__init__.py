"""What some web frameworks make easier. Nothing here imports a framework."""
