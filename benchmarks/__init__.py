"""The claims about speed and quality, measured."""
