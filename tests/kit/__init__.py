"""What tests and benchmarks share: builders, fakes and servers."""
