from tests.support.places import PROJECT

EXAMPLES = PROJECT / "examples"
