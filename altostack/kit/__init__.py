"""The kit: what every service is made of. It knows no service by name; a test enforces it."""
