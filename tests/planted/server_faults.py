"""Faults of what the server decides: whom it believes, what it answers, what it keeps."""

from __future__ import annotations

from tests.planted.fault import Edit, Fault
from tests.planted.suites import HOSTILE_CLIENT

RECIPES = "tests/server/test_recipes.py"
RECEIVE = "tests/server/test_receive.py"
STAGE = "tests/server/test_stage.py"
CLONES = "tests/server/test_clones.py"
OLD_CONTENT = "tests/server/test_old_content.py"
WIRE = "tests/e2e/test_wire.py"

SERVER_FAULTS = (
    Fault(
        "hash of what arrives not compared",
        "4",
        (
            Edit(
                "server/stage.py",
                "            if chunk.size != sizes[announced] or chunk_id(data) != announced:",
                "            if chunk.size != sizes[announced]:",
            ),
        ),
        (f"{RECEIVE}::test_bytes_with_another_hash_are_refused",),
        also=(HOSTILE_CLIENT,),
    ),
    Fault(
        "hash of what is reused not compared",
        "10",
        (
            Edit(
                "server/old_content.py",
                "            if len(data) == chunk.size and chunk_id(data) == chunk.id:",
                "            if len(data) == chunk.size:",
            ),
        ),
        (STAGE,),
    ),
    Fault(
        "what is laid under an upload not compared",
        "10",
        (
            Edit(
                "server/stage.py",
                "        return self._open_file(staged.name).holds(offset, chunk)\n",
                "        return not is_kept or self._open_file(staged.name).holds(offset, chunk)\n",
            ),
        ),
        (CLONES,),
    ),
    Fault(
        "zeros over what was laid under an upload are left out",
        "10",
        (
            Edit(
                "storage/staging.py",
                "        self._staged_bytes = max(self._staged_bytes, end)\n",
                "",
            ),
        ),
        (CLONES,),
    ),
    Fault(
        "an edited file is written as a whole where blocks can be shared",
        "12",
        (Edit("system/clones.py", "0x4020940D", "0x4020940C"),),
        (CLONES,),
    ),
    Fault(
        "what follows reused content not compared",
        "10",
        (
            Edit(
                "server/old_content.py",
                "        if len(piece) != chunk.size or chunk_id(piece) != chunk.id:",
                "        if len(piece) != chunk.size:",
            ),
        ),
        (OLD_CONTENT,),
    ),
    Fault(
        "what was read ahead is not let go of",
        "12",
        (
            Edit(
                "server/old_content.py",
                "            opened.source.close()\n",
                "            pass\n",
            ),
        ),
        (OLD_CONTENT,),
    ),
    Fault(
        "what steps under way have displaced is suspected",
        "10",
        (
            Edit(
                "server/old_content.py",
                "        for is_sure in (False, True):",
                "        for is_sure in (False,):",
            ),
        ),
        (OLD_CONTENT,),
    ),
    Fault(
        "a recipe's result is not compared",
        "4",
        (
            Edit(
                "server/recipes.py",
                "    if chunk is None or chunk_id(chunk) != recipe.id:",
                "    if chunk is None:",
            ),
        ),
        (RECIPES,),
        also=(HOSTILE_CLIENT,),
    ),
    Fault(
        "the range of a recipe's copy is not checked",
        "14",
        (
            Edit(
                "core/recipes.py",
                "    if copy.offset < 0 or copy.size <= 0"
                " or copy.offset + copy.size > bases[copy.base].size:",
                "    if copy.size <= 0:",
            ),
        ),
        ("tests/core/test_recipes.py",),
    ),
    Fault(
        "any epoch may write",
        "8",
        (Edit("core/session.py", "    if epoch == current.epoch:\n", "    if epoch:\n"),),
        (RECEIVE,),
        also=(HOSTILE_CLIENT,),
    ),
    Fault(
        "a batch that was committed is committed again",
        "8",
        (Edit("core/session.py", "    return number <= current.committed", "    return False"),),
        (RECEIVE,),
    ),
    Fault(
        "a repeated batch is not answered as the first time",
        "8",
        (
            Edit(
                "server/receive.py",
                "            answer = self._pending.answer(number)\n",
                "            answer = BatchAnswer(revision=session.revision)\n",
            ),
        ),
        (RECEIVE, "tests/worlds/test_live_collisions.py"),
    ),
    Fault(
        "acknowledged before it is committed",
        "2",
        (
            Edit(
                "server/receive.py",
                "        return await asyncio.shield(pending.answer)\n",
                "        return BatchAnswer(revision=session.revision + 1)\n",
            ),
        ),
        (RECEIVE,),
    ),
    Fault(
        "a copied state is taken for the first one",
        "13",
        (
            Edit(
                "core/session.py",
                "    is_next = current.client_id == client_id and current.instance in"
                " (instance, *earlier)",
                "    is_next = current.client_id == client_id",
            ),
        ),
        ("tests/core/test_session.py",),
    ),
    Fault(
        "another client takes a folder without being asked to",
        "13",
        (
            Edit(
                "core/session.py",
                "    if current.client_id and not (is_next or is_again or take_over):\n"
                "        raise _refusal(current, client_id, name)\n",
                "",
            ),
        ),
        ("tests/core/test_session.py",),
    ),
    Fault(
        "batches of the one before stay after a take-over",
        "8",
        (
            Edit(
                "server/receive.py",
                "                await self._pending.drop("
                'OutOfOrderError("another session began"))\n',
                "",
            ),
        ),
        (RECEIVE,),
    ),
    Fault(
        "the content of an upload is not compared",
        "4",
        (
            Edit(
                "server/apply.py",
                "        if hasher.content_id() != change.content:",
                "        if not hasher.content_id():",
            ),
        ),
        (STAGE, RECEIVE, WIRE),
    ),
    Fault(
        "a batch of any size",
        "14",
        (
            Edit(
                "server/validate.py",
                "    if not 0 < len(changes) <= protocol.MAX_BATCH_CHANGES:",
                "    if not changes:",
            ),
        ),
        (f"{WIRE}::test_more_changes_than_allowed",),
    ),
    Fault(
        "strangers without end",
        "14",
        (
            Edit(
                "server/admission.py",
                "        if len(self._strangers) > self._most_strangers:",
                "        if len(self._strangers) < 0:",
            ),
        ),
        ("tests/server/test_admission.py::test_the_oldest_stranger_goes",),
    ),
    Fault(
        "verify reads nothing",
        "19",
        (
            Edit(
                "server/drift.py",
                "            return bool(self._holds(node, looked))\n",
                "            return True\n",
            ),
        ),
        ("tests/server/test_drift.py::test_bit_rot_is_found_by_reading",),
    ),
    Fault(
        "the beginning of the token is enough",
        "15",
        (
            Edit(
                "server/admission.py",
                "        if hmac.compare_digest(given, self._authorization):",
                "        if given and self._authorization.startswith(given):",
            ),
        ),
        (f"{WIRE}::test_the_token_is_compared_whole",),
    ),
    Fault(
        "paths with dots",
        "7",
        (Edit("core/paths.py", '(b"", b".", b"..")', '(b"",)'),),
        ("tests/core/test_paths.py",),
        also=(HOSTILE_CLIENT,),
    ),
    Fault(
        "a payload may unpack to more than it announces",
        "14",
        (
            Edit(
                "protocol.py",
                "        payload = decompressor.decompress("
                "packed, max_length=frame.size_bytes + 1)",
                "        payload = decompressor.decompress(packed)",
            ),
        ),
        ("tests/core/test_protocol.py",),
    ),
    Fault(
        "a damaged frame is used",
        "8a",
        (
            Edit(
                "protocol.py",
                "frame.kind is not FrameKind.CHUNKS and head != frame_digest(frame, [packed])",
                "frame.kind is not FrameKind.CHUNKS and len(head) != DIGEST_BYTES",
            ),
        ),
        ("tests/core/test_protocol.py",),
    ),
    Fault(
        "the attic expires too early",
        "3",
        (Edit("core/retention.py", "now_ns - keep_s * _NS", "now_ns - keep_s"),),
        ("tests/core/test_retention.py", "tests/server/test_collect.py"),
    ),
    Fault(
        "content takes the reserve",
        "17",
        (
            Edit(
                "core/room.py",
                "free_bytes=max(0, self.free_bytes - self.reserve_bytes),",
                "free_bytes=self.free_bytes,",
            ),
        ),
        ("tests/server/test_room.py", "tests/server/test_refusals.py", "tests/e2e/test_full.py"),
    ),
    Fault(
        "drift does not end the epoch",
        "18",
        (
            Edit(
                "server/heal.py",
                "                work.save_session(session)\n",
                "                del session\n",
            ),
        ),
        ("tests/server/test_drift.py",),
    ),
    Fault(
        "drift without a second look",
        "18",
        (
            Edit(
                "server/heal.py",
                "            looked = self._forest.look_at(TREE, names)\n"
                "            if self._is_case(suspect, node, looked):",
                "            looked = None\n            if True:",
            ),
            Edit(
                "server/heal.py",
                "        looked = self._forest.look_at(TREE, case.names)\n        if node",
                "        looked = case.looked\n        if node",
            ),
        ),
        ("tests/server/test_drift.py",),
    ),
    Fault(
        "a file that nobody touched is set right",
        "18",
        (
            Edit(
                "server/heal.py",
                "return suspect.deep or (differs(node, looked) and not is_untouched(node, looked))",
                "return suspect.deep or differs(node, looked)",
            ),
            Edit(
                "server/heal.py",
                " and differs(node, looked) and not is_untouched(node, looked):",
                " and differs(node, looked):",
            ),
        ),
        ("tests/server/test_drift.py",),
    ),
    Fault(
        "a directory's attributes are not compared with the source's",
        "18",
        (
            Edit(
                "server/heal.py",
                "                self._outcome.unproven.append(case)\n",
                "                pass\n",
            ),
        ),
        ("tests/server/test_drift.py",),
    ),
    Fault(
        "a chunk announced with two sizes",
        "4",
        (
            Edit(
                "server/stage.py",
                "            if sizes.setdefault(chunk_id, size) != size:",
                "            if sizes.setdefault(chunk_id, size) < 0:",
            ),
        ),
        (f"{STAGE}::test_a_chunk_is_announced_with_one_size_only",),
    ),
    Fault(
        "bodies are unpacked unasked",
        "14a",
        (
            Edit(
                "server/routes.py",
                '                "auto_decompress": False,\n',
                '                "auto_decompress": True,\n',
            ),
        ),
        ("tests/hostile/test_clients.py::test_a_body_in_a_content_encoding",),
    ),
    Fault(
        "an empty body is waited for without end",
        "14",
        (
            Edit(
                "server/body.py",
                "is_end_of_part and not data and not self._content.at_eof():",
                "is_end_of_part and not data:",
            ),
        ),
        ("tests/e2e/test_wire.py::test_a_request_without_a_body_is_answered_each_time",),
    ),
    Fault(
        "a frame of any size",
        "14",
        (
            Edit(
                "protocol.py",
                "    if size_bytes > limit or packed_bytes > size_bytes or",
                "    if packed_bytes > size_bytes or",
            ),
        ),
        (f"{WIRE}::test_sizes_over_a_limit",),
    ),
    Fault(
        "more than permission bits",
        "7",
        (
            Edit(
                "server/validate.py",
                "    if mode & ~PERMISSION_BITS or mode < 0:",
                "    if mode < 0:",
            ),
        ),
        (WIRE,),
    ),
    Fault(
        "paths are taken as they come",
        "7",
        (
            Edit(
                "core/paths.py",
                "    return path if path == ROOT_PATH else check_path(path)",
                "    return path",
            ),
            Edit("server/validate.py", "    check_path(change.path)\n    if", "    if"),
        ),
        (WIRE,),
        also=(HOSTILE_CLIENT,),
    ),
    Fault(
        "the token is not asked for",
        "15",
        (
            Edit(
                "server/routes.py",
                "            refusal = await self.admission.refusal(request)\n",
                "            refusal = None\n",
            ),
        ),
        (f"{WIRE}::test_every_request_needs_the_token",),
    ),
    Fault(
        "decoders are made when they are first used",
        "8",
        (
            Edit("protocol.py", "for kind in _KINDS\n", "for kind in ()\n"),
            Edit(
                "protocol.py",
                "_DECODERS[kind].decode(data)",
                "msgspec.msgpack.Decoder(kind).decode(data)",
            ),
        ),
        ("tests/core/test_protocol.py::test_the_first_batches_may_come_at_once",),
    ),
    Fault(
        "a header waits on after its epoch",
        "8",
        (
            Edit(
                "server/receive.py",
                "self._pending.next_number() >= number or self._index.session().epoch != epoch",
                "self._pending.next_number() >= number",
            ),
        ),
        (f"{RECEIVE}::test_a_header_that_waits_for_its_turn_ends_with_its_epoch",),
    ),
    Fault(
        "output that has no room ends the mirror",
        "17",
        (Edit("output.py", "    except OSError:\n        return\n", ""),),
        ("tests/e2e/test_commands.py::test_a_log_without_room_does_not_stop_the_mirror",),
    ),
    Fault(
        "revisions count on from the second",
        "9",
        (Edit("core/session.py", "_TICK_BITS = 8\n", "_TICK_BITS = 30\n"),),
        ("tests/core/test_session.py::test_no_revision_of_a_lost_history_comes_again",),
    ),
    Fault(
        "damage of the index is taken for a full disk",
        "9",
        (
            Edit(
                "storage/index.py",
                "        if tells_of_damage(error):\n            raise",
                "        if tells_of_damage(error) and False:\n            raise",
            ),
        ),
        ("tests/hostile/test_stored.py::test_an_index_whose_damage_shows_in_a_commit",),
    ),
)
