"""Everything that describes the package stands in pyproject.toml."""

from setuptools import setup

setup()
