"""What is opened by name is there: a mistyped name would be noticed by a user only."""

from pkgutil import resolve_name

import pytest

import attriflow
import attriflow.engine
from attriflow.doors import DOORS, opened


@pytest.mark.parametrize("name", DOORS)
def test_every_door_leads_to_a_function(name):
    found = opened(name)
    assert callable(found) and DOORS[name] == f"{found.__module__}:{found.__name__}"


@pytest.mark.parametrize("package", [attriflow, attriflow.engine], ids=lambda package: package.__name__)
def test_public_names_are_those_of_their_modules(package):
    for name, home in ((name, home) for home, names in package._HOMES.items() for name in names):
        assert name in package.__all__
        assert getattr(package, name) is resolve_name(f"{home}:{name}")
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        package.no_such_name  # noqa: B018
