"""What a server streams beside text, and how much: the pieces of calls, the limits of size."""
