"""From the pydantic models to CustomResourceDefinitions and reference pages."""
