"""The claims about speed: `python -m benchmarks.bench`, or `make bench`."""
