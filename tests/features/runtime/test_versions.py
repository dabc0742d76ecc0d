"""What another process has otherwise is told, so that machines whose numbers differ do not work together."""

from features.engines.registry import ENGINES
from features.runtime.versions import differences, installed_versions


def test_what_any_engine_computes_with_is_compared():
    engines = {kind.extra for kind in ENGINES.values()}
    assert engines | {"llvmlite"} <= set(installed_versions())  # Numba's compiler is a package of its own


def test_other_versions_are_told_but_not_of_what_only_the_other_has():
    here = {"numba": "0.68.1", "openvino": "none", "numpy": "2.3.0"}
    assert differences(here, here) == ""
    assert differences(here, {**here, "openvino": "3.6.0"}) == ""
    assert differences(here, {"numba": "0.68.0", "numpy": "2.3.0"}) == "numba 0.68.0 instead of 0.68.1"
    assert differences(here, {"numba": "0.68.1"}) == "numpy none instead of 2.3.0"
