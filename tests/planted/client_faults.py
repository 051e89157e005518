"""Faults of the client: what it reads, what it takes for gone, what it says."""

from __future__ import annotations

from tests.planted.fault import Edit, Fault
from tests.planted.suites import ANY_CHANGE, SIMULATION

DIRTY = "tests/client/test_dirty.py"
READ = "tests/client/test_read.py"
SCAN = "tests/client/test_scan.py"
STRAIGHT = "tests/client/test_straight.py"
SYNC = "tests/client/test_sync.py"
WATCH = "tests/client/test_watch.py"
GUARDS = "tests/client/test_guards.py"

CLIENT_FAULTS = (
    Fault(
        "a file that changes while it is read is sent",
        "4",
        (
            Edit(
                "client/read.py",
                "    if not is_unchanged(fd, facts):\n        raise UnsettledError",
                "    if fd < 0:\n        raise UnsettledError",
            ),
        ),
        (READ,),
    ),
    Fault(
        "a file of this clock tick is read at once",
        "4",
        (
            Edit(
                "core/planning.py",
                "    return now_ns - ctime_ns < granularity_ns",
                "    return False",
            ),
        ),
        (READ,),
    ),
    Fault(
        "no guard against many deletions",
        "6",
        (
            Edit(
                "client/guard.py",
                "return deletions if deletions_held(deletions, self._entries_before, limit) else 0",
                "return 0",
            ),
        ),
        (f"{SCAN}::test_the_guard_holds_many_deletions", GUARDS),
    ),
    Fault(
        "another folder is taken for the source",
        "6",
        (
            Edit(
                "client/source.py",
                "            return identity != self._identity\n",
                "            return False\n",
            ),
        ),
        (f"{SCAN}::test_another_folder_in_the_place_of_the_source_is_not_sent",),
    ),
    Fault(
        "another folder is taken for the source after a restart",
        "6",
        (
            Edit(
                "client/source.py",
                '        if self._state.number("root_inode") not in (0, identity[1]):\n'
                "            return True\n",
                "",
            ),
        ),
        (GUARDS, SYNC, "tests/e2e/test_guard.py", "tests/e2e/test_away.py"),
    ),
    Fault(
        "the source is not looked at again before deletions",
        "6",
        (
            Edit(
                "client/scan.py",
                "        if not tools.is_same_source():\n",
                "        if False:\n",
            ),
        ),
        (SCAN,),
    ),
    Fault(
        "a listing that failed counts as empty",
        "6",
        (
            Edit(
                "client/scan.py",
                "        except OSError as error:\n"
                "            self.notes.unentered(path, error)\n"
                "            return None\n"
                "        listed, known = ",
                "        except OSError as error:\n"
                "            self.notes.unentered(path, error)\n"
                "            entries, facts = [], directory.facts()\n"
                "        listed, known = ",
            ),
        ),
        (f"{SCAN}::test_an_unreadable_directory_deletes_nothing",),
    ),
    Fault(
        "a directory that is as known is done, whatever moved or is ignored by now",
        "5",
        (
            Edit(
                "client/scan.py",
                "        if tools.ignore.keeps_all and not tools.moves.moved:\n",
                "        if True:\n",
            ),
        ),
        (f"{SCAN}::test_rules_that_come_later_hold_where_nothing_changed",),
    ),
    Fault(
        "a move is not verified by its content",
        "5",
        (
            Edit(
                "client/files.py",
                "        if origin is not None and _has_content(origin.known, now, content):",
                "        if origin is not None:",
            ),
        ),
        (SCAN,),
    ),
    Fault(
        "a hard link is taken for a move",
        "5",
        (
            Edit(
                "client/moves.py",
                "        return seen is not None and seen[0][5:] == facts[5:]",
                "        return False",
            ),
        ),
        (SCAN,),
        also=(ANY_CHANGE,),
    ),
    Fault(
        "moves are not found",
        "12",
        (
            Edit(
                "client/moves.py",
                "            if origin is not None and not is_within(path, origin.path):\n",
                "            if origin is not None and is_within(path, origin.path):\n",
            ),
        ),
        (f"{SCAN}::test_moving_a_directory_is_one_change",),
    ),
    Fault(
        "what moved is dropped with its old name",
        "5",
        (
            Edit(
                "client/scan.py",
                "        gone = [old for old in child.replacing"
                " if old.node not in self.tools.moves.moved]\n",
                "        gone = child.replacing\n",
            ),
        ),
        (f"{SCAN}::test_a_directory_takes_the_name_of_what_moved_into_another",),
    ),
    Fault(
        "everything is deleted and sent again",
        "12",
        (
            Edit(
                "client/files.py",
                "        if not _has_content(known, now, content):\n",
                "        if known.node:\n",
            ),
        ),
        ("tests/planner/test_convergence.py",),
    ),
    Fault(
        "a change that keeps size and mtime is not seen",
        "5",
        (
            Edit(
                "core/planning.py",
                "    elif before.facts != facts:",
                "    elif before.facts[:4] != facts[:4]:",
            ),
        ),
        (f"{SCAN}::test_a_change_that_keeps_size_and_mtime_is_seen",),
    ),
    Fault(
        "what goes straight is not bounded by the batch's room",
        "12",
        (
            Edit(
                "client/straight.py",
                "self._reader.take_all(files[:most], most_bytes):",
                "self._reader.take_all(files, most + most_bytes + (1 << 40)):",
            ),
        ),
        (STRAIGHT,),
    ),
    Fault(
        "what was refused is sent again on the straight way",
        "12",
        (
            Edit(
                "client/entries.py",
                "            if self._tools.problems.refusals.is_empty:\n",
                "            if True:\n",
            ),
        ),
        (STRAIGHT,),
    ),
    Fault(
        "a file that was moved goes straight, as a new one",
        "12",
        (Edit("client/straight.py", "            self._moves.may_find\n", "            False\n"),),
        (STRAIGHT,),
    ),
    Fault(
        "batches of any size are held in memory",
        "12",
        (
            Edit(
                "client/batch.py",
                "            or self.held_bytes + size_bytes > MAX_CONTENT_BYTES\n",
                "",
            ),
        ),
        (f"{SCAN}::test_memory_of_batches_is_bounded",),
    ),
    Fault(
        "what is on its way is held in memory, however much it is",
        "12",
        (
            Edit(
                "client/transfer.py",
                "            self._batches >= WINDOW_BATCHES or self._bytes + size_bytes"
                " > WINDOW_BYTES\n",
                "            self._batches >= WINDOW_BATCHES\n",
            ),
        ),
        ("tests/client/test_transfer.py::test_what_is_on_its_way_is_bounded",),
    ),
    Fault(
        "redirects are followed",
        "15",
        (
            Edit(
                "client/connection.py",
                "data=data, headers=sent, allow_redirects=False",
                "data=data, headers=sent, allow_redirects=True",
            ),
        ),
        ("tests/e2e/test_tls.py::test_a_redirect_is_not_followed",),
    ),
    Fault(
        "symlinks that lead elsewhere stay as they were",
        "5",
        (
            Edit(
                "client/files.py",
                "        change = MakeSymlink(path, target) if target != known.target else None",
                "        change = None",
            ),
        ),
        (SCAN,),
    ),
    Fault(
        "other names of a hard link are not looked at",
        "5",
        (
            Edit(
                "client/dirty.py",
                "        if len(self._linked) < MAX_LINKS:\n",
                "        if len(self._linked) < 0:\n",
            ),
        ),
        (SCAN,),
    ),
    Fault(
        "symlinks are followed while reading",
        "7",
        (
            Edit(
                "client/tree.py",
                "_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW",
                "_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY",
            ),
        ),
        (f"{READ}::test_no_directory_is_entered_through_a_symlink",),
    ),
    Fault(
        "a queue that overflowed is no loss",
        "11",
        (
            Edit(
                "client/inotify.py",
                "            self._overflowed = True\n            self._lose()\n",
                "            self._overflowed = True\n",
            ),
        ),
        (WATCH,),
    ),
    Fault(
        "directories that cannot be watched are not told of",
        "11",
        (
            Edit(
                "client/inotify.py",
                "        if not count:\n            return None",
                "        if count >= 0:\n            return None",
            ),
        ),
        (WATCH,),
    ),
    Fault(
        "in sync while deletions are held",
        "11",
        (
            Edit(
                "client/sync.py",
                "        if agenda.has_news or agenda.is_settling or board.held_deletions:",
                "        if agenda.has_news or agenda.is_settling:",
            ),
        ),
        (f"{SYNC}::test_held_deletions_keep_it_from_being_in_sync",),
    ),
    Fault(
        "refused entries are not listed",
        "16",
        (
            Edit(
                "client/board.py",
                "                self.problems.note(change.path, refusal.reason)\n",
                "",
            ),
        ),
        ("tests/worlds/test_live_collisions.py::test_one_of_two_is_held_until_the_other_goes",),
    ),
    Fault(
        "the state advances before the acknowledgement",
        "2",
        (
            Edit(
                "client/transfer.py",
                "            if batch.changes:\n                answer,",
                "            self._state.acknowledge(self._accepted(batch, ()), (), None)\n"
                "            if batch.changes:\n                answer,",
            ),
            Edit(
                "client/transfer.py",
                "            effects = self._accepted(batch, answer.refused)\n",
                "            effects = list[Effect]()\n",
            ),
        ),
        (SYNC, "tests/e2e/test_away.py"),
        also=(SIMULATION,),
    ),
    Fault(
        "any certificate will do",
        "15",
        (
            Edit(
                "client/connection.py",
                "            self._ssl = aiohttp.Fingerprint(bytes.fromhex(address.fingerprint))",
                "            self._ssl = False",
            ),
        ),
        ("tests/e2e/test_tls.py",),
    ),
    Fault(
        "two clients for one source",
        "13",
        (Edit("client/run.py", "            lock.acquire()\n", ""),),
        ("tests/e2e/test_usage.py::test_a_second_client_on_a_source",),
    ),
    Fault(
        "events that were lost are not made up for",
        "11",
        (
            Edit(
                "client/agenda.py",
                "        self.full = self.full or dirty.lost\n",
                "",
            ),
        ),
        ("tests/e2e/test_live_pair.py::test_events_that_found_no_room_are_made_up_for",),
    ),
    Fault(
        "files of the source are opened for writing",
        "7",
        (
            Edit(
                "client/tree.py",
                "    _READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW",
                "    _READ_FLAGS = os.O_RDWR | os.O_NOFOLLOW",
            ),
        ),
        ("tests/hostile/test_races.py::test_the_client_changes_nothing_in_the_source",),
    ),
    Fault(
        "a refusal of what was not sent is believed",
        "14a",
        (
            Edit(
                "client/transfer.py",
                "(refusal.index >= len(batch.changes) for refusal in answer.refused)",
                "(refusal.index < 0 for refusal in answer.refused)",
            ),
        ),
        ("tests/hostile/test_servers.py::test_refusals_of_what_was_not_sent",),
    ),
    Fault(
        "an answer of any size is taken",
        "14a",
        (
            Edit(
                "client/connection.py",
                "                        if len(answer) > _MAX_ANSWER_BYTES:\n",
                "                        if len(answer) < 0:\n",
            ),
        ),
        ("tests/client/test_connection.py",),
    ),
    Fault(
        "a name that was left is taken for unchanged",
        "5",
        (
            Edit(
                "client/entries.py",
                "        if not self._tools.moves.moved:\n",
                "        if True:\n",
            ),
        ),
        ("tests/client/test_scan.py::test_a_hard_link_to_a_file_whose_directory_is_renamed",),
    ),
    Fault(
        "what is on its way to a directory is found anew when it is looked at again",
        "5",
        (Edit("client/scan.py", "        if arriving:\n", "        if False:\n"),),
        (f"{DIRTY}::test_a_directory_that_is_looked_at_twice_brings_what_is_in_it_once",),
    ),
    Fault(
        "who waits is forgotten when the state is made anew",
        "9",
        (
            Edit(
                "client/run.py",
                "state, control.waiters, ",
                "state, type(control.waiters)(), ",
            ),
        ),
        (f"{SYNC}::test_who_asks_is_answered_although_the_state_is_made_anew",),
    ),
    Fault(
        "a server that once names no known version is given up",
        "9",
        (Edit("client/link.py", "_GREETINGS = 3", "_GREETINGS = 1"),),
        ("tests/e2e/test_one_writer.py::test_a_spoilt_number_ends_no_client",),
    ),
    Fault(
        "damage of the state is taken for a full disk",
        "9",
        (
            Edit(
                "client/state.py",
                "        if tells_of_damage(error):\n",
                "        if tells_of_damage(error) and False:\n",
            ),
        ),
        ("tests/hostile/test_stored.py::test_a_state_whose_damage_shows_later",),
    ),
    Fault(
        "a state that cannot be looked up is used",
        "9",
        (
            Edit(
                "client/soundness.py",
                '        if found != "ok":\n',
                '        if found == "":\n',
            ),
        ),
        ("tests/hostile/test_stored.py::test_a_state_whose_look_up_is_wrong",),
    ),
    Fault(
        "what was taken over is taken back",
        "13",
        (Edit("client/link.py", "        self._take_over = False\n", ""),),
        ("tests/e2e/test_one_writer.py::test_what_was_taken_over_once_is_not_taken_back",),
    ),
)
