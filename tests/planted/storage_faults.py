"""Faults of what touches the disk: order, durability, names, containment."""

from __future__ import annotations

from tests.planted.fault import Edit, Fault
from tests.planted.suites import KILLS, POWER_CUTS, SIMULATION, SWAPPED_SYMLINKS

RECOVERY = "tests/server/test_recovery.py"
COMMIT = "tests/server/test_commit.py"
RECORD = "                    work.add_intents(steps)\n"
SAVE = "                    work.save_session("
TREE = "tests/storage/test_tree.py"
DESTINATION = "tests/storage/test_destination.py"

DURABLE = "tests/e2e/test_durable.py"

STORAGE_FAULTS = (
    Fault(
        "a file that is written early is closed before it is synced",
        "2",
        (Edit("storage/staging.py", "        if self._is_begun:\n", "        if False:\n"),),
        (
            "tests/storage/test_staging.py::test_what_could_not_be_written_early_is_told_by_the_sync",
        ),
    ),
    Fault(
        "content of few files not synced",
        "2",
        (Edit("storage/staging.py", "            sync_file(fd)\n", "            pass\n"),),
        (DURABLE,),
        also=(SIMULATION,),
    ),
    Fault(
        "content of many files not synced",
        "2",
        (
            Edit(
                "storage/staging.py",
                "if (len(files) > _FEW_FILES or filled or others) and sync_file_system(self._fd):",
                "if len(files) > _FEW_FILES or filled or others:",
            ),
        ),
        (DURABLE,),
        also=(
            SIMULATION,
            POWER_CUTS,
        ),
    ),
    Fault(
        "the index is not durable",
        "2",
        (Edit("storage/index.py", "synchronous=FULL", "synchronous=OFF"),),
        (DURABLE,),
        also=(
            SIMULATION,
            POWER_CUTS,
        ),
    ),
    Fault(
        "listings share their place in a folder",
        "18",
        (
            Edit(
                "system/listing.py",
                'own = os.open(b".", _DIRECTORY, dir_fd=fd)\n',
                "raise PermissionError\n",
            ),
        ),
        ("tests/storage/test_listing.py::test_threads_do_not_take_names_from_each_other",),
    ),
    Fault(
        "attic link before replacing left out",
        "3",
        (
            Edit(
                "storage/perform.py",
                "                keep_in_attic(self._directories, step.source, step.name)\n",
                "                pass\n",
            ),
            Edit(
                "storage/perform.py",
                "                return KEEP, ",
                "                return None; ",
            ),
        ),
        (f"{COMMIT}::test_any_changes_do_what_they_say",),
        also=(
            SIMULATION,
            KILLS,
        ),
    ),
    Fault(
        "intents not recorded",
        "2",
        (Edit("server/commit.py", f"{RECORD}{SAVE}", SAVE),),
        (RECOVERY,),
        also=(SIMULATION,),
    ),
    Fault(
        "steps before their record",
        "2",
        (
            Edit(
                "server/commit.py",
                f"{RECORD}{SAVE}",
                f"                    refused = self._perform(steps, again=False)\n{RECORD}{SAVE}",
            ),
            Edit(
                "server/commit.py",
                "            refused = self._perform(steps, again=False)\n        with",
                "        with",
            ),
        ),
        (RECOVERY,),
    ),
    Fault(
        "no roll forward after a crash",
        "2",
        (
            Edit(
                "server/commit.py",
                "        if steps:\n            self._open",
                "        if not steps:\n            self._open",
            ),
        ),
        (RECOVERY,),
        also=(SIMULATION,),
    ),
    Fault(
        "recovery believes a name, not the inode",
        "3",
        (
            Edit(
                "storage/recovery.py",
                "            if inode_at(parent, location.name) == inode:\n",
                "            if inode_at(parent, location.name) is not None:\n",
            ),
        ),
        (RECOVERY,),
        also=(SIMULATION,),
    ),
    Fault(
        "a rename that overwrites",
        "3",
        (
            Edit(
                "storage/perform.py",
                "    rename_new(name, wanted.name, source, target)\n",
                "    os.rename(name, wanted.name, src_dir_fd=source, dst_dir_fd=target)\n",
            ),
        ),
        (RECOVERY, "tests/server/test_drift.py", COMMIT),
    ),
    Fault(
        "directories keep the time of the last change in them",
        "5",
        (
            Edit(
                "storage/perform.py",
                "            os.utime(fd, ns=(step.mtime_ns, step.mtime_ns))\n",
                "",
            ),
        ),
        (f"{COMMIT}::test_any_changes_do_what_they_say",),
    ),
    Fault(
        "mode bits not set again",
        "5",
        (
            Edit("system/attributes.py", "            os.chmod(itself, mode)\n", ""),
            Edit("storage/perform.py", "            return ADJUST, ", "            return None; "),
        ),
        (f"{COMMIT}::test_any_changes_do_what_they_say",),
        also=("tests/e2e/test_once.py::test_every_kind_of_change_since_the_last_pass_is_found",),
    ),
    Fault(
        "directories opened through symlinks",
        "7",
        (
            Edit(
                "storage/directories.py",
                "OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC",
                "OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC",
            ),
        ),
        (f"{TREE}::test_nothing_is_written_through_a_directory_swapped_for_a_symlink",),
        also=(SWAPPED_SYMLINKS,),
    ),
    Fault(
        "attributes given through symlinks",
        "7",
        (
            Edit(
                "system/attributes.py",
                "os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)",
                "os.O_PATH | os.O_CLOEXEC, dir_fd=directory)",
            ),
        ),
        (f"{TREE}::test_attributes_do_not_follow_a_file_swapped_for_a_symlink",),
    ),
    Fault(
        "a name that the disk takes for another one",
        "16",
        (
            Edit(
                "storage/recovery.py",
                "                check_name(self._neighbours, target, target_fd, there)\n",
                "                pass\n",
            ),
        ),
        ("tests/worlds/test_collisions.py",),
    ),
    Fault(
        "a staged file that was cut is gone on with",
        "4",
        (
            Edit(
                "storage/staging.py",
                "        if os.fstat(fd).st_size < size_bytes:\n            os.close(fd)",
                "        if size_bytes < 0:\n            os.close(fd)",
            ),
        ),
        ("tests/server/test_stage.py",),
    ),
    Fault(
        "a destination served twice",
        "13",
        (Edit("storage/destination.py", "    lock.acquire()\n", ""),),
        (f"{DESTINATION}::test_one_has_it_at_a_time",),
    ),
    Fault(
        "a destination that moved away is written to",
        "20",
        (
            Edit(
                "storage/destination.py",
                "            if not _is_same(path, fd):",
                "            if False:",
            ),
        ),
        (f"{DESTINATION}::test_a_part_of_it_that_was_swapped_is_noticed",),
    ),
    Fault(
        "an index in doubt is written on",
        "17",
        (Edit("storage/index.py", "            self._is_doubtful = True\n", ""),),
        ("tests/server/test_failing_disk.py",),
    ),
    Fault(
        "a failed sync is repeated and believed",
        "17",
        (Edit("server/commit.py", "            self._sync_failed = True\n", ""),),
        ("tests/server/test_failing_disk.py",),
    ),
    Fault(
        "steps forgotten before they are durable",
        "2",
        (
            Edit(
                "server/commit.py", "            self._staging.flush_all()\n", "            pass\n"
            ),
        ),
        (SIMULATION,),
    ),
    Fault(
        "folders that lead to the index not synced",
        "2",
        (
            Edit(
                "storage/destination.py",
                "        for fd in (self._fds[3], self._fds[0]):\n            sync_file(fd)\n",
                "",
            ),
        ),
        (SIMULATION,),
    ),
    Fault(
        "a log that may not be on the disk is gone on with",
        "2",
        (Edit("storage/index.py", "        _empty_log(engine, path)\n", ""),),
        ("tests/storage/test_index.py",),
        also=(SIMULATION,),
    ),
    Fault(
        "tables without their roots",
        "2",
        (
            Edit(
                "storage/index.py",
                "            _run_migrations(connection)\n"
                "        # An error in between may have left the tables without them.\n",
                "            _run_migrations(connection)\n    ",
            ),
        ),
        ("tests/storage/test_index.py",),
    ),
    Fault(
        "what a recovery found is not read again",
        "18",
        (
            Edit(
                "storage/recovery.py",
                "        unread = [(node, inode, UNREAD_CTIME_NS) for"
                " node, inode, _ in self._identities.values()]\n",
                "        unread = list(self._identities.values())\n",
            ),
        ),
        ("tests/server/test_drift.py::test_an_edit_before_recovery_is_found",),
    ),
    Fault(
        "what was decided is thrown away",
        "2",
        (Edit("server/commit.py", "batch.is_decided = True", "batch.is_decided = False"),),
        (f"{RECOVERY}::test_a_disk_that_refuses_the_steps_loses_nothing",),
    ),
    Fault(
        "leftovers in staging are kept",
        "12",
        (
            Edit(
                "server/receive.py",
                "        await self._pending.in_commit_thread(self._committer.discard_leftovers)\n",
                "",
            ),
        ),
        (
            "tests/server/test_receive.py::test_what_was_staged_for_no_commit_goes_at_the_next_start",
        ),
    ),
    Fault(
        "what is swapped in during a recovery is not looked at",
        "3",
        (
            Edit(
                "storage/recovery.py",
                "        if inode_at(staging, spare.name) == step.inode:\n",
                "        if spare.name:\n",
            ),
        ),
        ("tests/server/test_recovery.py::test_what_is_swapped_in_during_a_recovery_is_kept",),
    ),
    Fault(
        "folders that are made are not synced",
        "2",
        (
            Edit(
                "storage/destination.py",
                "    try:\n        sync_file(fd)\n    finally:",
                "    try:\n        pass\n    finally:",
            ),
        ),
        ("tests/storage/test_destination.py::test_a_folder_that_is_made_survives_a_power_cut",),
    ),
    Fault(
        "an index that cannot be looked up is used",
        "9",
        (
            Edit(
                "storage/index.py",
                "PRAGMA integrity_check(1)",
                "PRAGMA quick_check(1)",
            ),
        ),
        ("tests/hostile/test_stored.py::test_an_index_whose_look_up_is_wrong",),
    ),
)
