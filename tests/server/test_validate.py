"""What is judged at first sight is judged as it is by itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from twinfold import protocol
from twinfold.core.chunking import chunk_id
from twinfold.core.manifest import content_id
from twinfold.errors import TwinfoldError
from twinfold.model import Change, Chunk, MakeDirectory, PutFile
from twinfold.server.validate import check_changes

_IDS = [chunk_id(b"a"), chunk_id(b"b"), b"short", b""]
_CHUNKS = st.lists(
    st.builds(Chunk, st.sampled_from(_IDS), st.sampled_from([0, 1, protocol.MAX_CHUNK_BYTES + 1])),
    max_size=2,
)


@st.composite
def _files(draw: st.DrawFn) -> PutFile:
    """Return a file that is well formed but for what happens to be drawn otherwise."""
    chunks = draw(st.just([Chunk(_IDS[0], 1)]) | _CHUNKS)
    right = sum(chunk.size for chunk in chunks)
    return PutFile(
        draw(st.sampled_from([b"d/a", b"d/..", b"d/a\0", b"d/", b"a", b".twinfold", b"d/e/a"])),
        draw(st.sampled_from([0o644, 0, 0o777, 0o1000, -1])),
        draw(st.sampled_from([5, 0, -1, (1 << 63) - 1, 1 << 63, -(1 << 63) - 1])),
        draw(st.sampled_from([right, right, right + 1])),
        draw(st.sampled_from([content_id(chunks), *_IDS])),
        chunks,
        draw(st.sampled_from([b"", b"", b"u" * 16])),
    )


def _verdict(changes: list[Change]) -> str:
    try:
        check_changes(changes)
    except TwinfoldError as error:
        return f"{type(error).__name__}: {error}"
    return ""


@given(_files(), _files())
def test_a_file_is_judged_alike_after_its_directory(one: PutFile, two: PutFile) -> None:
    """The first error is the same, and nothing passes that does not by itself."""
    directory = MakeDirectory(b"d", 0o755, 5)
    assert _verdict([directory, one, two]) == (_verdict([one]) or _verdict([two]))
