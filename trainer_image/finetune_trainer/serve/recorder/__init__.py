"""The recorder: beside a front, it stores captured answers and what people say of them."""
