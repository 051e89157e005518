"""Suites that look at the whole system: a second line of evidence for what they notice."""

SIMULATION = "tests/simulation/test_simulation.py::test_no_promise_is_broken"
KILLS = "tests/crash/test_kills.py::test_sides_broken_in_every_stage"
POWER_CUTS = "tests/power/test_power.py::test_nothing_acknowledged_is_lost_in_a_power_cut"
HOSTILE_CLIENT = "tests/hostile/test_clients.py::test_a_hostile_client"
SWAPPED_SYMLINKS = "tests/hostile/test_races.py::test_symlinks_that_come_and_go_lead_nowhere"
ANY_CHANGE = "tests/model/test_model.py::test_whatever_is_done_arrives"
