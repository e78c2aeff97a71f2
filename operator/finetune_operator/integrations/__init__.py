"""Optional partners. Each can be absent; nothing here is imported by ``domain`` or ``render``."""
