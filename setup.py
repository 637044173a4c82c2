"""Package discovery: pyproject.toml cannot both find packages and take two of them from the top level."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["mqjax", "mqjax.*"]),
        "mqjax.models",
        *(f"mqjax.models.{name}" for name in find_packages("models")),
        "mqjax.hw",
    ]
)
