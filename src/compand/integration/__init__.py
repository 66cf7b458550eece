"""Other libraries' classes and functions, on compand."""
