"""A pytest plugin: a failing example is not made smaller, for only that it fails is asked."""

from hypothesis import Phase, settings

settings.register_profile("unshrunk", phases=[Phase.explicit, Phase.generate], database=None)
settings.load_profile("unshrunk")
