"""Forms from public specifications."""
